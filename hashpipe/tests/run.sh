#!/bin/sh
# Runs test programs one after the other, each at most TEST_TIMEOUT_S seconds; says which failed.
# Exit codes of a program: 0 passed, 77 skipped, all else failed.
failed=0
for program in "$@"; do
	name=$(basename "$program")
	timeout -k 5 "${TEST_TIMEOUT_S:-60}" "$program"
	code=$?
	case $code in
	0) echo "ok      $name" ;;
	77) echo "skipped $name" ;;
	124 | 137) echo "FAILED  $name: not done after ${TEST_TIMEOUT_S:-60} s" ; failed=1 ;;
	*) echo "FAILED  $name: exit code $code" ; failed=1 ;;
	esac
done
exit $failed
