"""Which kernels to leave out: `SHAKESPEARE_LM_PLAIN=attention,dropout` in the environment uses the
plain version of these, and `all` of every one, to find out whether a kernel is at fault.
"""

import os

from shakespeare_lm.errors import check_choice

KERNELS = ("attention", "dropout", "int8", "muon")


def plain_kernels(names: str) -> frozenset[str]:
    """Return the kernels that `names` leaves out.

    Raises:
        UserError: for an unknown name.
    """
    listed = [name.strip() for name in names.split(",") if name.strip()]
    for name in listed:
        check_choice("SHAKESPEARE_LM_PLAIN", name, ("all", *KERNELS))
    return frozenset(KERNELS if "all" in listed else listed)


PLAIN = plain_kernels(os.environ.get("SHAKESPEARE_LM_PLAIN", ""))
