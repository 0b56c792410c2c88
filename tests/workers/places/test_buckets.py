"""Images in buckets: the same places, the same outcomes, and what a server's answers mean. The servers are real."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image

from tests import buckets as door
from tests.buckets import OF_EACH_CLOUD, SECRET, Bucket
from workers.errors import ErrorClass
from workers.inference.reading.images import ReadRules, UnreadableImage, read_image
from workers.places import buckets, location

PLAIN = ReadRules()


@pytest.fixture
def photo(tmp_path: Path) -> bytes:
    file = tmp_path / "a.jpg"
    Image.new("RGB", (40, 30), "red").save(file)
    return file.read_bytes()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more try instead of four, and less than a second for each."""
    for name, value in {"CONNECT_SECONDS": 0.5, "SILENT_SECONDS": 0.5, "RETRY_SECONDS": 0.5, "RETRIES": 1}.items():
        monkeypatch.setattr(buckets, name, value)


def refusal(place: str, rules: ReadRules = PLAIN) -> UnreadableImage:
    with pytest.raises(UnreadableImage) as refused:
        read_image(place, rules)
    return refused.value


@OF_EACH_CLOUD
@pytest.mark.parametrize("key", ["a.jpg", "p/ä b%20c.jpg", "p/a#b?c&d=e+f.jpg", "p/~[x]{y}*'\".jpg"])
def test_an_object_is_read_like_a_file_whatever_its_key_is(bucket: Bucket, photo: bytes, key: str) -> None:
    bucket.put(key, photo)
    image = read_image(f"{bucket.url}/{key}", ReadRules())
    assert image.pixels.shape == (30, 40, 3)
    assert image.file == location.stat(f"{bucket.url}/{key}")
    assert image.file.size == len(photo)
    today = datetime.now(UTC).timestamp()
    assert abs(image.file.mtime_ns / 1e9 - today) < 24 * 3600
    assert bucket.asked["GET", key] == 1


@OF_EACH_CLOUD
def test_a_root_and_a_path_are_one_place(bucket: Bucket, photo: bytes) -> None:
    bucket.put("photos/in/a.jpg", photo)
    root = f"{bucket.url}/photos"
    place = location.place(root, "in/a.jpg")
    assert place == location.place("/anywhere", place) == f"{root}/in/a.jpg"
    assert read_image(place, ReadRules(root=root)).file.size == len(photo)
    assert location.exists(place)
    assert location.exists(root)
    assert location.has_neighbours(place)
    assert not location.exists(f"{bucket.url}/phot")


@pytest.mark.parametrize("place", ["s3://other/photos/a.jpg", "s3://bucket/photos2/a.jpg", "/photos/a.jpg"])
def test_an_image_outside_of_its_root_is_not_asked_for(place: str) -> None:
    assert refusal(place, ReadRules(root="s3://bucket/photos")).error_class == ErrorClass.OUTSIDE_ROOT
    assert location.leaves("s3://bucket/photos", place)


def test_a_url_leaves_every_folder_of_a_disk() -> None:
    assert location.leaves("/", "s3://bucket/a.jpg")
    assert not location.is_relative("s3://bucket/a.jpg")


def test_scheme_and_bucket_have_one_spelling_and_keys_keep_theirs() -> None:
    assert location.normal("S3://Bucket/A/b.JPG") == "s3://bucket/A/b.JPG"
    assert location.shown("s3://bucket/a\nb") == "s3://bucket/a\\nb"


@OF_EACH_CLOUD
@pytest.mark.parametrize(
    ("fault", "error_class", "said"),
    [
        (None, ErrorClass.MISSING, "cannot be opened: the server says 404 Not Found"),
        (door.FORBIDDEN, ErrorClass.PERMISSION, "may not be read: the server says 403 Forbidden (AccessDenied)"),
        (door.BROKEN, ErrorClass.NO_ANSWER, "no answer: the server says 500 Internal Server Error (InternalError)"),
        (door.SILENT, ErrorClass.NO_ANSWER, "no answer: {} does not answer: it takes too long"),
    ],
)
def test_what_a_server_says_of_an_object_has_a_class(
    bucket: Bucket, impatient: None, fault: str | None, error_class: ErrorClass, said: str
) -> None:
    if fault:
        bucket.faults["a.jpg"] = fault
    error = refusal(f"{bucket.url}/a.jpg")
    assert error.error_class == error_class
    assert error.message.startswith(
        said.format(bucket.endpoint.partition("//")[2] if bucket.scheme != "az" else bucket.url)
    )
    assert bucket.secret not in error.message


@OF_EACH_CLOUD
def test_an_answer_that_ends_early_is_no_damaged_image(bucket: Bucket, impatient: None, photo: bytes) -> None:
    """Its object may be whole, so it is asked for again; a file that is cut in the bucket is what it is on a disk."""
    bucket.put("a.jpg", photo)
    bucket.put("cut.jpg", photo[: len(photo) // 2])
    bucket.faults["a.jpg"] = door.CUT
    assert refusal(f"{bucket.url}/a.jpg").error_class == ErrorClass.NO_ANSWER
    assert isinstance(location.why_not_opened(f"{bucket.url}/a.jpg"), location.Unanswered)
    assert refusal(f"{bucket.url}/cut.jpg").error_class == ErrorClass.TRUNCATED
    bucket.faults.clear()
    assert location.why_not_opened(f"{bucket.url}/a.jpg") is None


def test_a_server_that_is_not_there_is_named(bucket: Bucket, impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    error = refusal(f"{bucket.url}-x/a.jpg")
    assert (error.error_class, error.message) == (
        ErrorClass.NO_ANSWER,
        "no answer: 127.0.0.1:9 does not answer: Connection refused",
    )


@OF_EACH_CLOUD
def test_a_too_large_object_is_not_fetched(bucket: Bucket, photo: bytes) -> None:
    bucket.put("a.jpg", photo)
    error = refusal(f"{bucket.url}/a.jpg", ReadRules(max_bytes=100))
    assert (error.error_class, error.message) == (ErrorClass.TOO_LARGE, f"{len(photo)} bytes, over the limit of 100")


def test_a_server_without_tls_is_asked_only_if_a_setting_names_it(
    bucket: Bucket, impatient: None, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put("a.jpg", photo)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https" + bucket.environment["AWS_ENDPOINT_URL"].removeprefix("http"))
    assert refusal(f"{bucket.url}/a.jpg").error_class == ErrorClass.NO_ANSWER
    assert not bucket.asked


ENDPOINTS = {"s3": "AWS_ENDPOINT_URL", "gs": "GOOGLE_BASE_URL", "az": "AZURE_STORAGE_ENDPOINT"}


@pytest.fixture
def anonymous(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    monkeypatch.setenv("AZURE_SKIP_SIGNATURE", "true")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "any")


@pytest.mark.usefixtures("anonymous", "impatient")
@pytest.mark.parametrize("scheme", ENDPOINTS)
@pytest.mark.parametrize("given", ["127.0.0.1:9", "http://", "https://a b", "http://host:99999", "http://[bad"])
def test_an_endpoint_that_is_no_url_is_told(scheme: str, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of most of them obstore makes an error that no handler of errors catches."""
    monkeypatch.setenv(ENDPOINTS[scheme], given)
    said = f"no answer: {ENDPOINTS[scheme]} names no server: write it like https://host:9000"
    assert refusal(f"{scheme}://no-endpoint-{len(given)}/a.jpg").message == said


@pytest.mark.usefixtures("anonymous", "impatient")
@pytest.mark.parametrize("scheme", ENDPOINTS)
def test_no_password_and_no_signature_is_told(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENDPOINTS[scheme], f"http://me:{SECRET}@127.0.0.1:9")
    said = "no answer: 127.0.0.1:9 does not answer: Connection refused"
    assert refusal(f"{scheme}://with-password/a.jpg").message == said
    if scheme == "az":
        monkeypatch.setenv(ENDPOINTS[scheme], "http://127.0.0.1:9")
        monkeypatch.setenv("AZURE_SKIP_SIGNATURE", "false")
        monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", f"sv=2020-12-06&sig={SECRET}")
        said = "no answer: az://with-signature does not answer: Connection refused"
        assert refusal("az://with-signature/a.jpg").message == said


@pytest.mark.parametrize(
    ("scheme", "said"),
    [
        ("s3", "no credentials: set those of the bucket in the environment, such as AWS_ACCESS_KEY_ID"),
        ("gs", "no credentials: set those of the bucket in the environment, such as GOOGLE_SERVICE_ACCOUNT"),
        ("az", "no account: set AZURE_STORAGE_ACCOUNT_NAME in the environment"),
        ("az", "no credentials: set those of the bucket in the environment, such as AZURE_STORAGE_ACCOUNT_KEY"),
    ],
)
def test_what_is_missing_in_the_environment_is_told(
    scheme: str, said: str, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "KEY" in said:
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "any")
    assert refusal(f"{scheme}://without-{len(said)}/a.jpg").message == f"no answer: {said}"


def test_without_obstore_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "obstore", None)
    error = refusal("s3://bucket/a.jpg")
    assert error.message == "no answer: s3:// needs the extra `remote`: pip install 'sam3-queue[remote]'"
