#!/bin/bash --
# Stand-in of the twin for Qubes 4.3's script of this name: what a word of rd.qubes.hide_pci means, and hiding it.
# The twin's initramfs is lab/twin/dom0/machine/boot.py, which follows the same rules; this one is there to be looked into.

# resolve_dev DEVICE: prints the address of a path id such as 00_01.0-00_00.1, or of an address as it is.
resolve_dev() {
    local rest=$1 segment=0000 hop first

    if [[ $rest != *_* ]]; then
        [[ $rest == *:*:*.* ]] && echo "$rest" || echo "0000:$rest"
        return
    fi
    if [[ $rest == [0-9a-f][0-9a-f][0-9a-f][0-9a-f]_*_* ]]; then
        segment=${rest:0:4}
        rest=${rest:5}
    fi
    while [[ $rest == *-* ]]; do
        hop=${rest%%-*}
        rest=${rest#*-}
        first=$(cat "/sys/bus/pci/devices/$segment:${hop/_/:}/secondary_bus_number") || return
        rest=$(printf '%02x' $((16#${rest%%_*} + first)))_${rest#*_}
    done
    echo "$segment:${rest/_/:}"
}
