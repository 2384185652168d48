#!/bin/sh
# The Python of one of several pytest workers side by side, in namespaces of its own: programs
# found by their names, ports, shared memory and loopback addresses of one worker's tests are not
# those of another's.  Needs root.
#
# usage: pytest --tx "3*popen//python=tests/worker.sh" ...   (make test does so where it can)
# Workers must find the same tests, by the same names.
export PYTHONHASHSEED=0
exec unshare --net --pid --ipc --mount --fork --kill-child --mount-proc sh -c '
	mount -t tmpfs tmpfs /dev/shm && ip link set lo up && .venv/bin/python "$@"
	exit $?  # the shell stays: somebody has to ask after orphans, or ended pipelines are found
' worker "$@"
