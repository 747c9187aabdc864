#!/usr/bin/env python3
"""Manages `Level[...]`: a file below /var/lib that holds a number.

A provider in another language than Rust. It is started once for each call, reads one JSON object and writes one; what these hold is
told in the documentation of `direct_puppet_agent::provider::executable`.
"""

import json
import os
import sys


def path_of(request):
    return os.path.join(request["root"], "var/lib", "level-" + request["title"].replace("/", "_"))


def current(path):
    try:
        with open(path) as file:
            return file.read().strip()
    except FileNotFoundError:
        return "absent"


def check(request, path):
    previous, desired = current(path), str(request["parameters"]["value"])
    if previous == desired:
        return {"changes": []}
    return {"changes": [{"property": "value", "previous": previous, "desired": desired}]}


def apply(request, path):
    # What is told as done must be whole and durable: write beside it, then rename.
    try:
        with open(path + ".new", "w") as file:
            file.write("%d\n" % request["parameters"]["value"])
            file.flush()
            os.fsync(file.fileno())
        os.rename(path + ".new", path)
    except OSError as error:
        return {"failures": {"value": str(error)}}
    return {}


def answer(request):
    value = request["parameters"].get("value")
    if isinstance(value, bool) or not isinstance(value, int):
        return {"parameter": "value", "error": "must be a whole number"}
    if request["call"] == "check":
        return check(request, path_of(request))
    if request["call"] == "apply":
        return apply(request, path_of(request))
    return {"refreshed": False}


json.dump(answer(json.load(sys.stdin)), sys.stdout)
