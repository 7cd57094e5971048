"""The table of faults, how often each was tried and survived; NumPy, the stand-in, and CuPy; a browser."""

import contextlib
import gc
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the tests run on as many processes as cores
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # of some hundred processes each would compile tinyalex again

import shutil
import signal
from collections import Counter

import backends
import pytest

TRIED, SURVIVED = Counter(), Counter()

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background processes are deaf to Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish():
    import hypothesis  # noqa: F401  its plugins ask the collector who refers to their generators

    gc.freeze()  # each collection would else look through all that was imported: a third of a second


@pytest.fixture
def fault():
    """A context manager around a try of a fault, from the fault to the proof that nothing is lost."""

    @contextlib.contextmanager
    def one(name, times=1):
        TRIED[name] += times
        yield
        SURVIVED[name] += times

    return one


def pytest_terminal_summary(terminalreporter):
    if not TRIED:
        return
    terminalreporter.section("faults")
    width = max(map(len, TRIED))
    terminalreporter.line(f"{'fault':{width}}  tried  survived  lost")
    for name, tried in TRIED.items():
        lost = tried - SURVIVED[name]
        terminalreporter.line(f"{name:{width}}  {tried:5}  {SURVIVED[name]:8}  {lost:4}")


@pytest.fixture(scope="session")
def kernel_cache(tmp_path_factory):
    """A folder for the stand-in's compiled kernels; pytest-xdist's processes share it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "kernels"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="module", params=backends.BACKENDS)
def backend(request, kernel_cache):
    """Run the module's tests on NumPy, on the stand-in for CuPy, and on CuPy."""
    with backends.use(request.param, kernel_cache):
        yield request.param


@pytest.fixture
def standin(kernel_cache):
    """The stand-in for CuPy alone."""
    if backends.MISSING["standin"]:
        pytest.skip(backends.MISSING["standin"])
    with backends.use("standin", kernel_cache):
        yield


@pytest.fixture(params=[name for name in backends.BACKENDS if name != "numpy"])
def gpu(request, kernel_cache):
    """The stand-in, and CuPy where there is a GPU."""
    with backends.use(request.param, kernel_cache):
        yield request.param


@pytest.fixture(params=backends.BACKENDS)
def each_backend(request, kernel_cache):
    """The same for a single test, in a module whose others run on NumPy alone."""
    with backends.use(request.param, kernel_cache):
        yield request.param


@pytest.fixture(scope="module")
def browser():
    """Start a headless Chromium that sees no network, as wide as a phone."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND",
    ):  # fmt: skip
        options.add_argument(argument)
    phone = {"width": 390, "height": 844, "pixelRatio": 2.0}
    options.add_experimental_option("mobileEmulation", {"deviceMetrics": phone})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})

    def start():
        return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))

    try:
        started = start()
    except pytest.importorskip("selenium.common").SessionNotCreatedException:
        started = start()  # on a busy machine Chromium does not always come up in time
    yield started
    started.quit()
