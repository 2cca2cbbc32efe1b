# Chooses the slot: the first of BOOT_ORDER that has boots left, counted down before it is tried. RAUC and
# lineside-os-good set the count back to 3; BOOT_A_GOOD and BOOT_B_GOOD say which was ever found good since it was written.
# A slot that cannot be read is named in BOOT_UNREADABLE, which the system reports, and the other one is started at once
# if it was good. The state is kept twice, as slots.env and slots.bak: a copy whose checksum is wrong, because the power
# went while it was written, is passed over.
# Not at 0x08000000, where QEMU puts the Pi's device tree; below 0x1a000000, for the Zero 2 W has no more.
if test "${soc}" = bcm283x; then
    setenv env_at 0x05f00000
    setenv initrd_at 0x06000000
    setenv kernel_at 0x0a000000
    setenv kernel_comp_addr_r 0x10000000
else
    setenv env_at 0x45f00000
    setenv initrd_at 0x46000000
    setenv kernel_at 0x48000000
    setenv kernel_comp_addr_r 0x4c000000
fi
setenv disk "${devtype} ${devnum}"
setenv save 'env export -c -s 0x4000 ${env_at} BOOT_ORDER BOOT_A_LEFT BOOT_B_LEFT BOOT_A_GOOD BOOT_B_GOOD BOOT_UNREADABLE MACHINE_ID; fatwrite ${disk}:1 ${env_at} slots.bak 0x4000; fatwrite ${disk}:1 ${env_at} slots.env 0x4000'
setenv known no
for file in slots.env slots.bak; do
    if test ${known} = no; then
        if load ${disk}:1 ${env_at} ${file}; then
            if env import -c ${env_at} 0x4000 BOOT_ORDER BOOT_A_LEFT BOOT_B_LEFT BOOT_A_GOOD BOOT_B_GOOD BOOT_UNREADABLE MACHINE_ID; then setenv known yes; fi
        fi
    fi
done
if test ${known} = no; then
    echo "no slot state can be read: A, then B"
    setenv BOOT_ORDER "A B"
    setenv BOOT_A_LEFT 3
    setenv BOOT_B_LEFT 3
fi
setenv slot
for each in ${BOOT_ORDER}; do
    if test -z "${slot}"; then
        if test ${each} = A; then
            if test ${BOOT_A_LEFT} -gt 0; then
                setexpr BOOT_A_LEFT ${BOOT_A_LEFT} - 1
                setenv slot A
            fi
        else
            if test ${BOOT_B_LEFT} -gt 0; then
                setexpr BOOT_B_LEFT ${BOOT_B_LEFT} - 1
                setenv slot B
            fi
        fi
    fi
done
if test -z "${slot}"; then
    # From the start: what was ever good. Where nothing was, the first.
    echo "no slot has boots left: from the start"
    setenv any no
    for each in ${BOOT_ORDER}; do
        if test ${each} = A; then
            if test "${BOOT_A_GOOD}" = 1; then setenv BOOT_A_LEFT 3; setenv any yes; fi
        else
            if test "${BOOT_B_GOOD}" = 1; then setenv BOOT_B_LEFT 3; setenv any yes; fi
        fi
    done
    for each in ${BOOT_ORDER}; do
        if test ${any} = no; then
            setenv BOOT_${each}_LEFT 3
            setenv any yes
        fi
    done
fi
run save
if test -z "${slot}"; then reset; fi

# For tests and for those who must see why a board does not start: a line `extra=...` for the kernel. Who has the card in
# his hand shall not become root by it: words that say where messages go, and no others.
setenv extra
if load ${disk}:1 ${env_at} cmdline.txt; then env import -t ${env_at} ${filesize} extra; fi
setenv more
for word in ${extra}; do
    if setexpr allowed sub "^((console=tty[AMSU]*\\d+(,\\d+)?)|(loglevel=\\d)|(ignore_loglevel)|(earlycon)|(initcall_debug)|(systemd\\.log_level=(debug|info))|(systemd\\.journald\\.forward_to_console=1)|(systemd\\.watchdog_sec=\\d+)|(systemd\\.wants=t\\.service)|(systemd\\.setenv=LINESIDE_SECONDS=\\d+))$" yes "${word}"; then
        setenv more "${more} ${word}"
    else
        echo "cmdline.txt: ${word} is not allowed"
    fi
done

# The second time round it is the other slot's turn.
for round in 1 2; do
    if test -n "${slot}"; then
        setenv part 2
        if test ${slot} = B; then setenv part 3; fi
        setenv bootargs "lineside.slot=${slot} rauc.slot=${slot} panic=10 quiet fsck.repair=yes @CONSOLE@${more}"
        if test -n "${MACHINE_ID}"; then setenv bootargs "${bootargs} systemd.machine_id=${MACHINE_ID}"; fi
        echo "slot ${slot}, left: A ${BOOT_A_LEFT}, B ${BOOT_B_LEFT}"
        echo "kernel: ${bootargs}"
        # Nested: booti after a load that failed would crash.
        if load ${disk}:${part} ${initrd_at} /boot/initrd.img; then
            setenv initrd_size ${filesize}
            if load ${disk}:${part} ${kernel_at} /boot/vmlinuz.gz; then
                setenv kernel_comp_size ${filesize}
                if test "${BOOT_UNREADABLE}" = ${slot}; then setenv BOOT_UNREADABLE; run save; fi
                booti ${kernel_at} ${initrd_at}:${initrd_size} ${fdt_addr}
            fi
        fi
        echo "slot ${slot} cannot be read"
        setenv BOOT_UNREADABLE ${slot}
        run save
        if test ${slot} = A; then
            if test "${BOOT_B_GOOD}" = 1; then setenv slot B; else setenv slot; fi
        else
            if test "${BOOT_A_GOOD}" = 1; then setenv slot A; else setenv slot; fi
        fi
    fi
done
reset
