"""The settings that came after Celery 5.1, as chapters/two-celerys.md lists them."""

import json
import re
import warnings

import pytest
from celery import VERSION, Celery
from celery.app.defaults import DEFAULTS

from course.chapters import ROOT
from course.environment import PINNED

PAGE = ROOT / "chapters" / "two-celerys.md"
# The settings of Celery 5.1.2 and their defaults, which a test on Celery 5.1.2 verifies.
LIST = ROOT / "tests" / "test_14_later_settings" / "settings_of_5_1_2.json"
OF_5_1_2 = json.loads(LIST.read_text())
NAME = ".".join(map(str, VERSION[:3]))
only_on_5_7 = pytest.mark.skipif(PINNED, reason="Celery 5.1 doesn't have this setting")
pytestmark = pytest.mark.skipif(
    "config.option.docker or os.environ.get('DIR')",
    reason="these tests are about Celery, and neither about an attempt nor containers",
)


@pytest.fixture(scope="module")
def folder():
    return ROOT / "tests" / "test_14_app"


def own_app(**settings):
    """Return an app that no other test sees."""
    app = Celery("own", set_as_current=False)
    app.conf.update(settings)
    return app


def defaults():
    """Return the default of each setting, with lists for tuples and text for other objects."""
    return json.loads(json.dumps(DEFAULTS, default=str))


def section():
    """Return the section of the page that lists the settings, on one line."""
    _, _, rest = PAGE.read_text().partition("\n## Settings that came later\n")
    section, _, _ = rest.partition("\n## ")
    return " ".join(section.split())


def listed_settings():
    """Return the settings that the section names and Celery 5.1.2 doesn't have."""
    return set(re.findall(r"`([a-z0-9]+_\w+)`", section())) - OF_5_1_2.keys()


def test_the_list_is_that_of_5_1_2():
    if PINNED:
        assert defaults() == OF_5_1_2, f"{LIST.name} should have the settings of Celery {NAME}."


@pytest.mark.row("Settings that came later")
def test_either_version_accepts_a_later_setting_in_silence():
    listed = listed_settings()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        app = own_app(**dict.fromkeys(listed, 1))
    for name in listed:
        assert app.conf[name] == 1, f"{name} should be kept, but it is {app.conf[name]!r}."
        assert (name in DEFAULTS) is not PINNED, (
            f"{name} should be a setting of Celery 5.7, and not of 5.1."
        )


@only_on_5_7
def test_the_page_lists_each_later_setting():
    unlisted = sorted(DEFAULTS.keys() - OF_5_1_2.keys() - listed_settings())
    assert not unlisted, (
        f"{PAGE.name} should list each setting that came after Celery 5.1, but Celery {NAME}"
        f" also has {', '.join(unlisted)}."
    )
    gone = sorted(OF_5_1_2.keys() - DEFAULTS.keys())
    assert not gone, f"Celery {NAME} should have all settings of 5.1, but it lacks {gone}."
    total = len(DEFAULTS) - len(OF_5_1_2)
    assert f"{total} settings" in section(), f"{PAGE.name} should say that {total} settings came."


@only_on_5_7
def test_the_page_names_each_changed_default():
    now = defaults()
    changed = {name for name in OF_5_1_2 if now[name] != OF_5_1_2[name]}
    named = {name for name in OF_5_1_2 if f"The default of `{name}`" in section()}
    assert named == changed, (
        f"{PAGE.name} should name the settings whose default has changed, {sorted(changed)},"
        f" but it names {sorted(named)}."
    )


# What the most useful ones do


@only_on_5_7
def test_results_that_expire_sooner(app):
    """A failure, and what Redis keeps for a chord."""
    app.conf.result_expires = 3600
    app.conf.result_failure_expires = 60
    app.conf.result_chord_expires = 120
    backend = app._get_backend()
    backend.store_result("failed", ValueError(), "FAILURE")
    backend.store_result("succeeded", 1, "SUCCESS")
    found = [backend.client.ttl(f"celery-task-meta-{id}") for id in ("failed", "succeeded")]
    found.append(backend.chord_expires)
    assert found == [60, 3600, 120], (
        "A failure should be kept for 60 s, a success for 3600 s and a chord's results for 120 s,"
        f" but they are kept for {found}."
    )
