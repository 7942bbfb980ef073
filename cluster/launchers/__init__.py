"""Ray cluster files for `ray up`: templates beside this module, filled in and checked."""

from cluster.launchers.checks import check_cluster
from cluster.launchers.parameters import LauncherError
from cluster.launchers.templates import describe, render, template_names

__all__ = ["LauncherError", "check_cluster", "describe", "render", "template_names"]
