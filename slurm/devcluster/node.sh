#!/usr/bin/env bash
# First process of one virtual node: node.sh NAME ADDRESS HOSTS (ADDRESS is "-" where the node shares the host's network).
# As pid 1 of its namespace it reaps orphans, and its death takes everything on the node with it.
set -u
hostname "$1"
mount --bind "$3" /etc/hosts
if [ "$2" != - ]; then
  ip link set lo up
  until ip link show eth0 > /dev/null 2>&1; do sleep 0.02; done
  ip addr add "$2/16" dev eth0
  ip link set eth0 up
fi
slurmd -D -N "$1" &
slurmd=$!
trap 'kill -TERM "$slurmd" 2> /dev/null' TERM
while kill -0 "$slurmd" 2> /dev/null; do wait "$slurmd"; done
