"""BUFR messages made by ecCodes of any template, with the values that a test sets."""

import eccodes

PLACE = {
    "#1#blockNumber": 10, "#1#stationNumber": 7, "#1#year": 2024, "#1#month": 1, "#1#day": 2, "#1#hour": 12,
    "#1#minute": 0, "#1#latitude": 50.0, "#1#longitude": 10.0,
}  # fmt: skip
STATION = [301004, 301011, 301012, 301021]
"""Descriptors of `PLACE`, which begin a template."""


def message(template, values, *, edition=4, international=0, sequence=0, category=0, short=(), delayed=()):
    """Return a message of 2024-01-02 12 UTC; `short` and `delayed` are its replication factors."""
    handle = eccodes.codes_bufr_new_from_samples(f"BUFR{edition}")
    year = {"typicalYear": 2024, "internationalDataSubCategory": international} if edition == 4 else {}
    header = {
        "masterTablesVersionNumber": 39, "bufrHeaderCentre": 78, "dataCategory": category, "dataSubCategory": 0,
        "updateSequenceNumber": sequence, **(year or {"typicalYearOfCentury": 24}), "typicalMonth": 1, "typicalDay": 2,
        "typicalHour": 12, "typicalMinute": 0,
    }  # fmt: skip
    for key, value in header.items():
        eccodes.codes_set(handle, key, value)
    for kind, factors in (("Short", short), ("", delayed)):
        if factors:
            eccodes.codes_set_array(handle, f"input{kind}DelayedDescriptorReplicationFactor", factors)
    eccodes.codes_set_array(handle, "unexpandedDescriptors", template)
    for key, value in values.items():
        eccodes.codes_set(handle, key, value)
    eccodes.codes_set(handle, "pack", 1)
    packed = eccodes.codes_get_message(handle)
    eccodes.codes_release(handle)
    return packed


def synop(temperature=280.0, sequence=0, edition=4, heading="", **place):
    """Return a SYNOP with one temperature (None: missing), in a bulletin with this heading."""
    values = {**PLACE, **{f"#1#{key}": value for key, value in place.items()}}
    if temperature is not None:
        values["#1#airTemperature"] = temperature
    content = message([*STATION, 12101, 10004], values, sequence=sequence, edition=edition)
    return f"\x01\r\r\n001\r\r\n{heading}\r\r\n".encode() + content + b"\r\r\n\x03" if heading else content
