#!/usr/bin/env bash
# Gets what the browser checks need: playwright from the package registry, and a Chromium. Where no browser can be
# had it says so and succeeds: `cargo test --test browser` then names what it did not check.
set -euo pipefail
cd "$(dirname "$0")/../.."

[ -x target/browser/bin/python ] || python3 -m venv target/browser
target/browser/bin/pip install --quiet --disable-pip-version-check -r tests/browser/requirements.txt
if target/browser/bin/python tests/browser/check.py --find; then exit 0; fi
echo "no browser on this machine; trying to download one …"
timeout 120 target/browser/bin/python -m playwright install chromium-headless-shell || true
target/browser/bin/python tests/browser/check.py --find ||
  echo "no browser can be had here: the page will NOT be checked in one (Debian: apt-get install chromium)"
