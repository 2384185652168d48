#!/bin/sh
# Runs test programs side by side, each at most TEST_TIMEOUT_S seconds; says which failed.
# Exit codes of a program: 0 passed, 77 skipped, all else failed.
limit=${TEST_TIMEOUT_S:-100}
out=$(mktemp -d) || exit 1
trap 'rm -rf "$out"' EXIT

run() {
	timeout -k 5 "$limit" "$1" >"$out/$2.text" 2>&1
	echo $? >"$out/$2.code"
}

for program in "$@"; do
	run "$program" "$(basename "$program")" &
done
wait
failed=0
for program in "$@"; do
	name=$(basename "$program")
	code=$(cat "$out/$name.code")
	cat "$out/$name.text"
	case $code in
	0) echo "ok      $name" ;;
	77) echo "skipped $name" ;;
	124 | 137) echo "FAILED  $name: not done after $limit s"; failed=1 ;;
	*) echo "FAILED  $name: exit code $code"; failed=1 ;;
	esac
done
exit $failed
