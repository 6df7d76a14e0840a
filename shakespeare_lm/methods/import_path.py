"""`my_module.MyClass` -> the class, in a file of the user's own. Importing runs code, and the name
can come from a checkpoint that somebody else wrote, so the code must be trusted.
"""

import os
import sys
from collections.abc import Iterable
from importlib import import_module
from typing import Any, TypeVar

from shakespeare_lm.errors import UserError, one_line

# Import paths of networks, objectives and optimizers whose code may run, separated by commas.
TRUST_VARIABLE = "SHAKESPEARE_LM_NETWORKS"
Kind = TypeVar("Kind")


class UntrustedCodeError(UserError):
    """Code that this process was not allowed to import."""


def is_import_path(name: str) -> bool:
    """Say whether a name has the form `module.Class`, or `package.module.Class`."""
    parts = name.split(".")
    return len(parts) > 1 and all(map(str.isidentifier, parts))


def check_name(option: str, name: str, known: Iterable[str] = ()) -> None:
    """Raise a `UserError` unless the option's value is a known name or an import path."""
    if name not in known and not is_import_path(name):
        expected = f"choose from: {', '.join(known)}, or give" if known else "expected"
        raise UserError(
            f"{option} is {name[:80]!r}: {expected} the import path of your own class, such as "
            f"my_module.My{option.capitalize()}"
        )


def trust(*names: str) -> None:
    """Allow this process, and those that it starts, to import what has these names."""
    os.environ[TRUST_VARIABLE] = _trusting(*(name for name in names if "." in name))


def _trusting(*names: str) -> str:
    return ",".join(filter(None, [os.environ.get(TRUST_VARIABLE), *names]))


def import_own(option: str, name: str) -> Any:
    """Return what has this import path; the current folder is searched last.

    Raises:
        UserError: if it does not exist, its module cannot be imported, or `trust` or the
            environment variable does not allow it; the message begins with the option.
    """
    if name not in map(str.strip, os.environ.get(TRUST_VARIABLE, "").split(",")):
        raise UntrustedCodeError(
            f"{option} is {name[:80]!r}, which is not part of shakespeare_lm: if you trust that "
            f"code, set {TRUST_VARIABLE}={_trusting(name[:80])}"
        )
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # where the user's own file is, as for `python -c`
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, SyntaxError) as error:
        raise UserError(f"{option} is {name!r}: {one_line(error)}") from error
    except AttributeError as error:
        if error.name != attribute:  # of the module's own code
            raise
        raise UserError(f"{option} is {name!r}: {module} has no {attribute}") from None


def import_class(option: str, name: str, base: type[Kind]) -> type[Kind]:
    """Return the class of this import path, or raise as `import_own` does, or if it is no subclass
    of `base`.
    """
    found = import_own(option, name)
    if isinstance(found, type) and issubclass(found, base):
        return found
    raise UserError(f"{option} is {name!r}: expected a subclass of shakespeare_lm.{base.__name__}")
