# Sourced by tools/run and tools/test: makes .venv beside this directory and installs logd into it, editable.
# Everything that it says goes to stderr, because stdout belongs to `logd serve`.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv

say() { printf '%s\n' "$*" >&2; }

suits() { "$1" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

# Prints the first Python that is 3.11 or newer and can make a virtual environment. LOGD_PYTHON names another one.
find_python() {
    local candidate
    for candidate in ${LOGD_PYTHON:-python3 python3.13 python3.12 python3.11 python3.14 python}; do
        if suits "$candidate"; then
            command -v "$candidate"
            return 0
        fi
    done
    return 1
}

# Installs Debian packages where that is possible, and is quiet when it works.
apt_install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    local options=(-qq -y --no-install-recommends -o DPkg::Lock::Timeout=120)
    DEBIAN_FRONTEND=noninteractive apt-get install "${options[@]}" "$@" >/dev/null 2>&1 && return 0
    apt-get update -qq >/dev/null 2>&1
    DEBIAN_FRONTEND=noninteractive apt-get install "${options[@]}" "$@" >/dev/null 2>&1
}

make_venv() {
    local python
    if ! python=$(find_python); then
        say "No Python 3.11 or newer that can make a virtual environment: trying to install Debian's."
        apt_install python3 python3-venv && python=$(find_python) || {
            say "logd needs Python 3.11 or newer with its venv module. Install it (Debian: apt install python3-venv)" \
                "or name one with LOGD_PYTHON=/path/to/python3."
            return 1
        }
    fi
    say "Making .venv with $("$python" --version)."
    "$python" -m venv --clear "$venv"
}

# prepare NAME REQUIREMENT: after it .venv holds REQUIREMENT (like ".[test]"). NAME is the stamp that makes the next
# call return at once; the stamp holds what the installation depends on.
prepare() {
    local stamp=$venv/.logd-$1 wanted
    wanted="$root $(cat "$root/setup.cfg" "$root/pyproject.toml" | cksum)"
    if [ -f "$stamp" ] && [ "$(<"$stamp")" = "$wanted" ]; then
        return 0
    fi
    (
        if command -v flock >/dev/null; then
            exec 9>"$root/.venv.lock"
            flock 9
        fi
        if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
            make_venv || exit 1
        fi
        say "Installing logd's dependencies into .venv (once)."
        cd "$root" || exit 1
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$2" >&2 || {
            say "pip could not install logd's dependencies: its last lines say why. Then run the command again."
            exit 1
        }
        "$venv/bin/python" -m compileall -q logd >/dev/null || true
        printf '%s\n' "$wanted" >"$stamp"
    )
}
