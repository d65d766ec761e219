#!/bin/sh
# Sets everything up in .venv and runs the tests; arguments go to pytest.
set -eu
cd "$(dirname "$0")/.."

# For tests that open windows. Root gets them installed, others are told.
gui="xvfb xauth libegl1 libdbus-1-3 libfontconfig1 libglib2.0-0 libxkbcommon-x11-0
libxcb-cursor0 libxcb-icccm4 libxcb-keysyms1 libxcb-shape0"
if command -v dpkg-query >/dev/null; then
    missing=""
    for package in $gui; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q "ok installed" ||
            missing="$missing $package"
    done
    if [ -n "$missing" ] && [ "$(id -u)" = 0 ]; then
        apt-get update -qq
        # shellcheck disable=SC2086 # one word per package
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing
    elif [ -n "$missing" ]; then
        echo "Missing system packages (ask root: apt-get install$missing)" >&2
    fi
fi

[ -x .venv/bin/python ] || python3 -m venv --without-pip .venv
python3 -m pip --python .venv/bin/python install -q -U "pip>=25.1"
.venv/bin/python -m pip install -q -c constraints.txt -e . --group test
exec .venv/bin/python -m pytest "$@"
