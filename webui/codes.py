"""Addresses as QR codes: for a terminal, and for a page."""

from __future__ import annotations

import io


def qr(url: str) -> str:
    """The address as a picture that a terminal can print."""
    import segno

    out = io.StringIO()
    segno.make(url, micro=False, error="m").terminal(out=out, compact=True, border=2)
    return out.getvalue()


def qr_picture(url: str) -> str:
    """The address as a picture, in an address of its own."""
    import segno

    return str(segno.make(url, micro=False, error="m").svg_data_uri(border=3, scale=6))
