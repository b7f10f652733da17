#!/bin/sh
# Word F1 of extraction on Debian's FAQ (the same text as HTML, PDF and TXT). Needs Debian or Ubuntu, no root.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
apt-get download debian-faq
dpkg-deb -x debian-faq_*.deb .
gunzip usr/share/doc/debian/FAQ/*.gz 2>/dev/null || true
cd "$root"
DEBIAN_FAQ="$work/usr/share/doc/debian/FAQ" cargo test -p tune-rag --test extraction -- --nocapture --test-threads 1
