#!/bin/sh
# A report.html in headless Chromium, 390 and 1280 pixels wide, light and dark: fails where anything is wider than the window,
# and leaves four pictures to look at. Needs Debian's chromium.
#
#     scripts/check_report.sh runs/support-eval/report.html [FOLDER FOR THE PICTURES]
set -eu
report=$(realpath "$1")
out=${2:-$(dirname "$report")}
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

chrome() {
    chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$work/profile" "$@" 2>/dev/null
}

# All folds open, in a frame of that width (a window is never narrower than 500): what reaches past its right edge without
# a box of its own to scroll in.
cat >"$work/wide.js" <<'JS'
for (const fold of document.querySelectorAll("details")) fold.open = true;
const width = document.documentElement.clientWidth;
const scrolls = (node) => node && (/auto|scroll|hidden/.test(getComputedStyle(node).overflowX) || scrolls(node.parentElement));
const wide = [...document.body.querySelectorAll("*")].filter(
  (node) => node.getBoundingClientRect().right > width + 1 && !scrolls(node.parentElement) && !node.closest("svg"));
const told = wide.slice(0, 5).map((node) => `${node.tagName}.${node.getAttribute("class")}: ${node.textContent.slice(0, 60)}`);
if (document.documentElement.scrollWidth > width) told.push(`the page is ${document.documentElement.scrollWidth}`);
parent.document.body.dataset.wide = told.length ? told.join("\n") : `fits ${width}`;
JS
failed=0
for width in 390 1280; do
    { cat "$report"; printf '<script>'; cat "$work/wide.js"; printf '</script>'; } >"$work/page.html"
    printf '<body><iframe src="page.html" style="width:%spx;height:900px;border:0"></iframe>' "$width" >"$work/frame.html"
    found=$(chrome --allow-file-access-from-files --window-size=1400,1000 --virtual-time-budget=5000 --dump-dom \
        "file://$work/frame.html" | sed -n '/data-wide="/,/">/s/.*data-wide="//p' | sed 's/">.*//')
    if [ "$found" != "fits $width" ]; then
        echo "error: $report at $width pixels: ${found:-nothing was measured}" >&2
        failed=1
    fi
    for scheme in light dark; do
        # Chromium's own names of the two.
        case $scheme in light) preferred=1 ;; dark) preferred=0 ;; esac
        printf '<style>body{margin:0;background:gray}</style><iframe src="file://%s" style="width:%spx;height:6000px;border:0"></iframe>' \
            "$report" "$width" >"$work/picture.html"
        chrome --allow-file-access-from-files --blink-settings=preferredColorScheme=$preferred --window-size="$((width < 500 ? 500 : width)),6000" \
            --screenshot="$out/report-$width-$scheme.png" "file://$work/picture.html" >/dev/null
        echo "$out/report-$width-$scheme.png"
    done
done
exit $failed
