"""What is wrong with a URL, before anybody is asked."""

import pytest

from workers.places import urls


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://h/a.jpg", "'http://' is a URL that is not read"),
        ("https://me@h/a.jpg", "the URL holds a user or a password"),
        ("https://h/a.jpg?sv=1&sig=canary", "the URL holds a signature or a token"),
        ("https://h/a.jpg?access_token=canary", "the URL holds a signature or a token"),
        ("https://h/a/%2e%2E/b.jpg", "the URL holds . or .."),
        ("https://h/../b.jpg", "the URL holds . or .."),
    ],
)
def test_what_is_wrong_with_a_url_is_said_without_it(url: str, said: str) -> None:
    fault = urls.fault(url)
    assert fault is not None
    assert fault.startswith(said)
    assert "canary" not in fault
    assert "canary" not in urls.without_credentials(url)
