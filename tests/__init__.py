"""Tests: folders mirror the rooms of `wpm/`, and `analysis/` and `benchmarks/`.

Files directly in here test the ground files of `wpm/`, or go through several rooms.
`support/` holds what tests share, `faults/` the drills, `wrong_inputs/` what a user may get wrong,
`golden/` vectors of the method's research code. A test never imports a test.
"""
