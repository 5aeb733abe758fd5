"""A wrong input: a command that must be refused with one line."""

from dataclasses import KW_ONLY, dataclass

from tests.wrong_inputs.stage import Prepare, leave_as_it_is


@dataclass(frozen=True)
class WrongInput:
    """A command that must be refused with one line, and what it meets on disk.

    Attributes:
        arguments: as typed in a shell, with its quotes; {tmp}, {images} and {runs} stand for
            folders of the stage.
        says: part of the line that must be printed.
        prepare: changes the disk before the command is tried.
        situation: what `prepare` makes of the disk, in words.
        program: `launch`, or the name of an analysis command.
        starts_ray: it takes seconds.
    """

    arguments: str
    says: str
    _: KW_ONLY
    prepare: Prepare = leave_as_it_is
    situation: str = ""
    program: str = "launch"
    starts_ray: bool = False


def describe(wrong: WrongInput) -> str:
    """Return the command as a person would type it."""
    program = "launch.py" if wrong.program == "launch" else f"-m analysis.{wrong.program}"
    command = f"{program} {wrong.arguments}".strip()
    for name in ("tmp", "images", "runs"):
        command = command.replace(f"{{{name}}}/", "").replace(f"{{{name}}}", name.upper())
    return f"`{command}`" + (f" ({wrong.situation})" if wrong.situation else "")
