"""What a user may get wrong: flags, rows, images, search spaces, folders, records.

Every wrong input must print one line that says what is wrong and how to fix it, and end with exit
code 2. Nothing may be written into the run folder, and no file may be changed or lost anywhere.

`cases.py` lists the inputs, `stage.py` prepares the disk that they meet, `attempt.py` tries one,
`test_wrong_inputs.py` checks all of them in its own process, in less than a minute.
`python -m tests.wrong_inputs` prints a table of what each answers.
"""
