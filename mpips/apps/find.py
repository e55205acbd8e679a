"""Finds the app that a config names."""

import importlib
from typing import Final

from mpips.config import Config
from mpips.errors import ConfigError
from mpips.node.app import App

# Apps are imported only when they are used: a scheduler needs neither Numba nor SciPy.
LINEAR: Final = {
    "exact": "mpips.apps.linear.exact:ExactLinear",
    "diagonal": "mpips.apps.linear.diagonal:DiagonalLinear",
    "delayed": "mpips.apps.linear.delayed:DelayedLinear",
    "ftrl": "mpips.apps.linear.ftrl:FtrlLinear",
    "local-ftrl": "mpips.apps.linear.local:LocalFtrlLinear",
    "adagrad": "mpips.apps.linear.adagrad:AdaGradLinear",
    "adarevision": "mpips.apps.linear.adagrad:AdaRevisionLinear",
}


def find_app(config: Config) -> type[App]:
    """Return the app that the config's section [model] names.

    `kind = "linear"` (the default) with its `solver`, or `kind = "module:Class"`, a subclass of
    `mpips.node.app.App` that can be imported.

    Raises:
        ConfigError: there is no such app or solver.
    """
    kind = config.model.get("kind", "linear")
    if kind == "linear":
        solver = config.model.get("solver", "exact")
        if not isinstance(solver, str) or solver not in LINEAR:
            remedy = f"There are {', '.join(LINEAR)}."
            raise ConfigError(f"there is no solver {solver}", "model.solver", remedy)
        return _import_app(LINEAR[solver])
    if not isinstance(kind, str) or ":" not in kind:
        remedy = "It is linear, or module:Class for an app of your own."
        raise ConfigError(f"there is no kind of model {kind}", "model.kind", remedy)
    return _import_app(kind)


def _import_app(name: str) -> type[App]:
    """Return the app that "module:Class" names."""
    module, _, attribute = name.partition(":")
    try:
        kind = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        what = f"the app {name} cannot be imported: {type(error).__name__}: {error}"
        raise ConfigError(what, "model.kind") from error
    if not (isinstance(kind, type) and issubclass(kind, App)):
        remedy = "An app derives from mpips.node.app.App."
        raise ConfigError(f"{name} is no app", "model.kind", remedy)
    return kind
