"""Creators of envs as the command line names them: `module:function`, a gymnasium id, drive, gpudrive."""
from __future__ import annotations

import argparse
import ast
import difflib
import functools
import importlib
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from fastvec.cli.errors import CliError

SIZE = "<worlds>"
PRELOADED = 16  # scenes that the trainer reads, for forked workers to share
WORLDS = {"drive": "fastvec.drive", "gpudrive": "fastvec.gpudrive"}
HELP = ("module:function that returns an env (the current folder is looked through, too), a gymnasium id such as CartPole-v1, drive, "
        "or gpudrive")


@dataclass(frozen=True)
class Named:
    """A creator, and the Python that makes it again.

    Attributes:
        creator: the callable, as for `fastvec.make`.
        imports: what the Python needs: "import gymnasium", …
        expression: Python for the creator.
        sized: the same where the number of worlds is chosen: it stands where SIZE is.
        vary: as in `fastvec.tune`.
    """

    creator: Callable
    imports: tuple[str, ...]
    expression: str
    sized: str = ""
    vary: str | None = None

    def python(self, tuning) -> str:
        """Lines of Python that make what was chosen."""
        choice = tuning.chosen.choice
        creator = self.sized.replace(SIZE, str(choice.per_worker)) if choice.vary == "worlds" else self.expression
        imports = ["import fastvec", *(line for line in self.imports if line != "import functools" or "functools." in creator)]
        imports.sort(key=lambda line: (line != "import functools", line.startswith("from ")))  # the standard library first
        arguments = "".join(f", {name}={value!r}" for name, value in tuning.arguments().items())
        return "\n".join([*imports, f"vec = fastvec.make({creator}{arguments})"])


def assignment(text) -> tuple[str, Any]:
    """`name=value`: a Python literal, or else text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r}; give name=value")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def named(text: str, settings: dict, scenes: str | None = None) -> Named:
    """The creator that `text` names, with `settings` as its keyword arguments.

    Raises:
        CliError: there is none; says why.
    """
    if text in WORLDS:
        return _of_worlds(text, settings, scenes)
    if scenes is not None:
        raise CliError(f"--scenes {scenes}: only drive and gpudrive have scenes, {text} has none")
    _, colon, name = text.partition(":")
    if not colon or re.search(r"-v\d+$", name):
        return _of_gymnasium(text, settings)
    return _of_module(text, settings)


# ---- module:function -------------------------------------------------------------------------------------------------


def _of_module(text, settings):
    found = function(text)
    module, _, name = text.partition(":")
    given = "".join(f", {key}={value!r}" for key, value in settings.items())
    return Named(
        functools.partial(found, **settings) if settings else found,
        (f"from {module} import {name.split('.')[0]}", "import functools"),
        f"functools.partial({name}{given})" if given else name,
        f"functools.partial({name}, worlds={SIZE}{given})",
        "envs" if "worlds" in settings else None,
    )


def function(text: str) -> Callable:
    """What `module:function` names; the function may be an attribute of a class.

    Raises:
        CliError: there is none; says why.
    """
    module, _, name = text.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        raise CliError(f"{text}: give module:function, as in envs:make_env")
    found = _imported(text, module)
    for part in name.split("."):
        found = _attribute(text, found, part)
    if not callable(found):
        raise CliError(f"{text}: is {_kind(found)}, which cannot be called; name a function")
    return found


def _imported(text, module):
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(error.name + ".")):
            raise CliError(f"{text}: there is no module {error.name}, neither in {os.getcwd()} nor among the installed packages") from None
        raise CliError(f"{text}: {module} needs the module {error.name}, which is not installed") from None
    except Exception as error:  # whatever a module may raise
        raise CliError(f"{text}: importing {module} raised {type(error).__name__} ({error}){place_of(error)}") from None


def _attribute(text, owner, name):
    try:
        return getattr(owner, name)
    except AttributeError:
        pass
    names = [n for n in dir(owner) if not n.startswith("_") and callable(getattr(owner, n, None))]
    close = difflib.get_close_matches(name, names, 1)
    raise CliError(f"{text}: {_kind(owner)} has no {name}" + (f"; did you mean {close[0]}" if close else "")) from None


def place_of(error):
    """Where it was raised."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return f" at {Path(traceback.tb_frame.f_code.co_filename).name}, line {traceback.tb_lineno}" if traceback else ""


def _kind(found):
    if hasattr(found, "__file__"):
        return f"the module {found.__name__} ({found.__file__})"
    return f"the class {found.__name__}" if isinstance(found, type) else f"of type {type(found).__name__}"


# ---- gymnasium -------------------------------------------------------------------------------------------------------


def _of_gymnasium(text, settings):
    try:
        import gymnasium
    except ImportError:
        raise CliError(f"{text}: ids need gymnasium: pip install 'fastvec[gym]'; else give module:function") from None
    module, _, env_id = text.rpartition(":")
    if module:  # which registers it
        _imported(text, module)
    try:
        gymnasium.spec(env_id)
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        raise CliError(f"{text}: is no id that gymnasium knows ({error}); else give module:function") from None
    given = "".join(f", {key}={value!r}" for key, value in settings.items())
    return Named(
        functools.partial(gymnasium.make, text, **settings), ("import gymnasium", "import functools"),
        f"functools.partial(gymnasium.make, {text!r}{given})", vary="envs",  # no lambda: any start method takes it
    )


# ---- worlds ----------------------------------------------------------------------------------------------------------


def _of_worlds(text, settings, scenes):
    if "scenes" in settings:
        raise CliError(f"--set scenes={settings['scenes']!r}: give --scenes")
    if text == "gpudrive":
        _check_gpudrive(scenes)
    scenes = scenes or "shipped"
    package = importlib.import_module(WORLDS[text])
    try:
        creator = package.creator(scenes, **settings)
        if text == "drive":
            _preload(creator)
    except (ValueError, TypeError, OSError) as error:  # SceneError is a ValueError
        raise CliError(f"{text}: {error}") from None
    given = "".join(f", {key}={value!r}" for key, value in settings.items())
    call = f"{WORLDS[text]}.creator({scenes!r}"
    vary = "envs" if "worlds" in settings else "worlds"
    return Named(creator, (f"import {WORLDS[text]}",), f"{call}{given})", f"{call}, worlds={SIZE}{given})", vary)


def _check_gpudrive(scenes):
    from fastvec.gpudrive.installation import diagnose

    found = diagnose()
    if not found.usable:
        raise CliError(f"gpudrive: {found.advice}")
    if scenes is None:
        raise CliError("gpudrive: give --scenes, a scene file of GPUDrive's or a folder of them")


def _preload(creator):
    """Reads scenes here: errors show up at once, and workers that are forked share what was read."""
    from fastvec.drive import Drive
    from fastvec.drive.scenes import find

    files = find(creator.scenes)
    Drive(files, min(PRELOADED, len(files)), creator.config)
