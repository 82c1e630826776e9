"""The units of systemd in a folder, read as systemd does, as far as these use its syntax."""


def read_unit(folder, name):
    """Return the settings of a unit of this name, such as celery@ledger.service, with its drop-ins.

    They are lists, because a setting may stand several times. An empty one takes back what stands
    above it. %i is the instance; other specifiers stay as they are.
    """
    template, at, instance = name.removesuffix(".service").partition("@")
    files = [folder / f"{template}{at}.service", *sorted((folder / f"{name}.d").glob("*.conf"))]
    settings = {}
    for file in files:
        for line in file.read_text().replace("%i", instance).splitlines():
            key, equals, value = line.partition("=")
            if line.startswith(("#", "[")) or not equals:
                continue
            if value:
                settings.setdefault(key, []).append(value)
            else:
                settings.pop(key, None)
    return settings
