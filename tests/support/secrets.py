"""A secret of its own for every secret setting, and the look for each in what is written."""

from base64 import b64encode
from collections.abc import Mapping
from urllib.parse import quote

from raidhub_dagster.settings import Settings

# Nobody listens on port 9: whatever is posted there fails, and its error is told.
CANARIES: Mapping[str, str] = {
    name: f"http://127.0.0.1:9/canary/{name}?a=b"
    if name.endswith("_URL")
    else f"canary@{name}/'\"%s"
    for name in Settings.secret_variables()
}


def leaked(text: str, secrets: Mapping[str, str] = CANARIES) -> list[str]:
    """Variables whose secret stands in `text`: as it is, quoted for an address, or in base64."""
    return [name for name, secret in secrets.items() if any(f in text for f in _forms(secret))]


def _forms(secret: str) -> set[str]:
    forms = {secret, repr(secret)[1:-1], secret.replace('"', '\\"'), quote(secret, safe="")}
    if secret.startswith("http"):
        forms.add(secret.partition("9/")[2])  # as a connection pool tells it
    # Behind a name and a colon, at any of base64's three places; its ends depend on the neighbours.
    for shift in range(3):
        forms.add(b64encode(b" " * shift + secret.encode()).decode()[4:-4])
    return forms
