"""The number of the training procedure: which studies this version continues, and which compare.

A protocol names the settings that its file can change. Whatever else decides which numbers a
training gives, and what a search learns of it, has this one number, which every study records.
"""

PROCEDURE = 2
FIRST = 1  # of studies that record no number
# What a number changed, in words that complete "since then".
_CHANGES = {
    2: (
        "classes of batches are dealt from a deck, a diverged trial scores 0, ntxent and arcface "
        "are the originals', and mlrc counts epoch 0 for patience and stops no trial"
    )
}
_LAST_VERSIONS = {1: "0.2"}  # the last minor version of wpm with a number


def describe_procedure(number: int) -> str:
    """Say what is different about studies of another procedure, and which version continues them.

    Args:
        number: any but `PROCEDURE`.
    """
    if number > PROCEDURE:
        return f"procedure {number}, which is newer than this version's {PROCEDURE}"
    changes = "; ".join(_CHANGES[later] for later in range(number + 1, PROCEDURE + 1))
    return f"procedure {number} of wpm {_LAST_VERSIONS[number]} (since then {changes})"
