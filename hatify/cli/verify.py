"""`hatify verify`: what a conversion promises, checked on a network in a file."""

from __future__ import annotations

from hatify.cli.common import AsJSON, Model, ModelArguments, Network, open_network, show
from hatify.cli.errors import CHECK_FAILED, leave
from hatify.verification.verify import verify as verify_network


def verify(network: Network, model: Model = None, argument: ModelArguments = None, as_json: AsJSON = False) -> None:
    """Check what the conversion promises; the file stays as it is. The exit status is 1 where a check fails.

    **Examples**

        hatify verify net.safetensors

        hatify verify net.safetensors --json
    """
    report = verify_network(open_network(network, model, argument))
    show(as_json, report.as_dict(), report)
    if not report.ok:
        leave(f"failed: {', '.join(check.name for check in report if not check.ok)}", CHECK_FAILED)
