"""Find the classes that a row's file names, in pytorch-metric-learning or in the user's modules."""

import importlib
import importlib.abc
import importlib.util
import inspect
import platform
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from pytorch_metric_learning import distances, losses, miners, reducers, regularizers
from torch import nn

from wpm.errors import StorageError, UserError
from wpm.loss_description import SIZES, Argument, ClassCall, OwnModule, ParameterValue, suggest

# What may stand in a row's file: a module of the library, and the class that all of it are.
_LIBRARY: dict[str, tuple[ModuleType, type]] = {
    "loss": (losses, losses.BaseMetricLossFunction),
    "miner": (miners, miners.BaseMiner),
    "distance": (distances, distances.BaseDistance),
    "reducer": (reducers, reducers.BaseReducer),
    "regularizer": (regularizers, regularizers.BaseRegularizer),
}


def find_class(kind: str, name: str, modules: Mapping[str, OwnModule]) -> type:
    """Return a class by its name.

    Args:
        kind: what the class must be: "loss", "miner", "distance" or "reducer"; of another
            argument, the argument's name.
        name: of a class of pytorch-metric-learning, or `module:Class`.
        modules: the user's own modules.

    Raises:
        UserError: there is no such class, or it is something else.
        StorageError: this machine lacks the module.
    """
    known = {
        choice: found
        for part, (module, base) in _LIBRARY.items()
        if part == kind or kind not in _LIBRARY
        for choice, found in vars(module).items()
        if inspect.isclass(found) and issubclass(found, base)
    }
    if ":" not in name:
        if name not in known:
            what = kind if kind in _LIBRARY else "class"
            near = suggest(name, known) or f"; choose from {', '.join(sorted(known))}"
            raise UserError(
                f"{name!r} is no {what} of pytorch-metric-learning{near} (a class of your own: "
                "module:Class)"
            )
        return known[name]
    module_name, _, class_name = name.partition(":")
    module = _import_module(module_name, modules)
    found = getattr(module, class_name, None)
    if not inspect.isclass(found):
        classes = [choice for choice, value in vars(module).items() if inspect.isclass(value)]
        what = "has no class" if found is None else "has something else than a class named"
        raise UserError(f"module {module_name} {what} {class_name!r}{suggest(class_name, classes)}")
    # A loss of one's own need not be built from the library's, any module will do.
    expected = nn.Module if kind == "loss" else _LIBRARY.get(kind, (None, object))[1]
    if not issubclass(found, expected):
        what = "torch.nn.Module" if expected is nn.Module else expected.__name__
        raise UserError(f"{name} is no {kind}: it must be a {what}")
    return found


def build_call(
    kind: str, call: ClassCall, values: Mapping[str, float], modules: Mapping[str, OwnModule]
) -> Any:
    """Construct a class with its arguments.

    Args:
        kind: what it must be; see `find_class`.
        call: the class and its arguments.
        values: of all parameters and sizes.
        modules: the user's own modules.

    Raises:
        KeyError: a parameter has no value.
        UserError: there is no such class.
    """
    arguments = {
        name: _build_argument(name, argument, values, modules)
        for name, argument in call.arguments.items()
    }
    return find_class(kind, call.name, modules)(**arguments)


def _build_argument(
    name: str,
    argument: Argument,
    values: Mapping[str, float],
    modules: Mapping[str, OwnModule],
) -> Any:
    if isinstance(argument, ClassCall):
        return build_call(name, argument, values, modules)
    if isinstance(argument, ParameterValue):
        value = values[argument.name]
        return int(value) if argument.whole else value
    return argument


def check_arguments(kind: str, call: ClassCall, modules: Mapping[str, OwnModule]) -> None:
    """Refuse a class that does not exist, or that does not take one of the arguments.

    Raises:
        UserError: names the class, the argument and the one that is perhaps meant.
    """
    found = find_class(kind, call.name, modules)
    missing = [name for name in _list_required(found) if name not in call.arguments]
    if missing:
        sized = any(name in SIZES for name in missing)
        raise UserError(
            f"{call.name} needs {' and '.join(missing)}; "
            + (f"own_weights = true gives {' and '.join(SIZES)}" if sized else "search or fix them")
        )
    accepted = list_arguments(found)
    for name, argument in call.arguments.items():
        if accepted is not None and name not in accepted:
            near = suggest(name, accepted) or f"; it has {', '.join(sorted(accepted))}"
            raise UserError(f"{call.name} has no argument {name!r}{near}")
        if isinstance(argument, ClassCall):
            check_arguments(name, argument, modules)


def list_arguments(found: type) -> set[str] | None:
    """Return which keyword arguments a class takes; None if it takes any.

    Classes of the library hand what they do not know on to their bases, as `**kwargs`.
    """
    names: set[str] = set()
    takes_more = False
    for base in inspect.getmro(found):
        if "__init__" not in vars(base):
            continue
        if base in (object, nn.Module):
            return None if takes_more else names
        parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        takes_more = any(p.kind is p.VAR_KEYWORD for p in parameters)
        if not takes_more:
            break
    return names


def _list_required(found: type) -> list[str]:
    """Return the arguments without which a class cannot be constructed."""
    required: list[str] = []
    for base in inspect.getmro(found):
        if "__init__" not in vars(base) or base in (object, nn.Module):
            continue
        parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
        for parameter in parameters:
            by_name = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            if by_name and parameter.default is parameter.empty:
                required.append(parameter.name)
        # Only *args hands on what the next base requires: **kwargs may be completed on the way.
        if not any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
            break
    return required


def _import_module(name: str, modules: Mapping[str, OwnModule]) -> ModuleType:
    """Import a module: the user's own from its text, any other by its name."""
    own = modules.get(name)
    if own is None or own.source is None:
        return _import_installed(name)
    known = f"_own_{own.sha256[:16]}_{name.replace('.', '_')}"
    if known in sys.modules:
        return sys.modules[known]
    spec = importlib.util.spec_from_loader(known, _TextLoader(name, own.source))
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[known] = module  # dataclasses look their module up while it is imported
    try:
        assert spec.loader is not None
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[known]
        raise _import_error(name, error) from error
    return module


def _import_installed(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise _import_error(name, error) from error


def _import_error(name: str, error: Exception) -> UserError:
    """Return the error for a module. Where one is missing, another machine may have it."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    message = f"module {name} cannot be imported on {platform.node()} ({reason})"
    if isinstance(error, ModuleNotFoundError):
        return StorageError(
            f"{message}; a module of your own lies beside the row's file or where launch.py is "
            "called, any other must be installed on every machine"
        )
    return UserError(message)


class _TextLoader(importlib.abc.ExecutionLoader):
    """Imports a module from text that came with the work; tracebacks show its lines."""

    def __init__(self, name: str, source: str) -> None:
        self._file, self._source = f"{name}.py", source

    def get_source(self, fullname: str) -> str:
        return self._source

    def get_filename(self, fullname: str) -> str:
        return self._file
