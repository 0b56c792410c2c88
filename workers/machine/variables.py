"""Decides by their names which variables of the environment are ours. Knows no setting."""

import re
from collections.abc import Iterable, Mapping

PREFIX = "SAM3_"
# Variables that container engines set for linked services. They are no settings of ours.
# Source: https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables.
_LINK_VARIABLE = re.compile(r"_PORT(_|$)|_SERVICE_")
_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://")


def own_variables(environment: Iterable[str]) -> set[str]:
    """The variables that look like settings or flags of ours."""
    return {name for name in environment if name.startswith(PREFIX) and not _LINK_VARIABLE.search(name)}


def linked_services(environment: Mapping[str, str]) -> list[str]:
    """Variables that look like flags of ours but come from the container engine.

    For instance a service called sam3 sets SAM3_PORT to tcp://10.0.0.1:6379.
    """
    return [name for name, value in environment.items() if name.startswith(PREFIX) and _LINK_VALUE.match(value)]
