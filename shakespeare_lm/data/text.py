"""bytes -> text: the one place where UTF-8 is decoded."""

from shakespeare_lm.errors import UserError


def decode_utf8(data: bytes, name: object) -> str:
    """Return bytes as text, without the byte order mark that some editors write.

    Raises:
        UserError: naming the first byte that is not UTF-8; `name` says where the bytes come from.
    """
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name} is not UTF-8 text: invalid byte 0x{data[error.start]:02X} at offset "
            f"{error.start}"
        ) from None
