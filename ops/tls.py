"""TLS towards a server: its certificate and host name are always checked; nothing here can turn that off."""

from __future__ import annotations

import ssl
from pathlib import Path


def context(
    ca_file: str | None, certificate_file: str | None, key_file: str | None, key_password: str
) -> ssl.SSLContext:
    """A client's context: trusts `ca_file` (else what the system trusts), shows a certificate if there is one.

    The key may be in the certificate's file. Raises ValueError that names the file; never the password.
    """
    for path in (ca_file, certificate_file, key_file):
        if path is not None and not Path(path).is_file():
            raise ValueError(f"there is no file {path}")
    try:
        made = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=ca_file)
    except (OSError, ValueError) as error:
        raise ValueError(f"no CA certificate in PEM form can be read from {ca_file}: {_why(error)}") from None
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate_file is not None:
        try:
            # A function, since without one OpenSSL would ask at the terminal for the password of a locked key.
            made.load_cert_chain(certificate_file, key_file, lambda: key_password)
        except (OSError, ValueError) as error:
            files = certificate_file if key_file is None else f"{certificate_file} with the key {key_file}"
            raise ValueError(
                f"{files} can't be used as certificate: {_why(error)}; both must be PEM and belong together, and a "
                "locked key needs its password"
            ) from None
    return made


def _why(error: Exception) -> str:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
    return str(reason).lower().replace("_", " ")
