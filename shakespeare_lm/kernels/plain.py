"""To find out whether a kernel is at fault: `SHAKESPEARE_LM_PLAIN=attention,dropout` (or `all`) in
the environment uses torch's plain version of these.
"""

import os

from shakespeare_lm.errors import check_choice

KERNELS = ("attention", "dropout", "int8", "muon")


def plain_kernels(names: str) -> frozenset[str]:
    """Return the kernels in a comma-separated list; an unknown name is a `UserError`."""
    listed = [name.strip() for name in names.split(",") if name.strip()]
    for name in listed:
        check_choice("SHAKESPEARE_LM_PLAIN", name, ("all", *KERNELS))
    return frozenset(KERNELS if "all" in listed else listed)


PLAIN = plain_kernels(os.environ.get("SHAKESPEARE_LM_PLAIN", ""))
