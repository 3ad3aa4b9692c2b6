"""Keeps one empty VM as long as the nested host runs.

The first and the last VM of a host flip a static key in the scheduler, with which a kernel has crashed in emulation
("Oops: int3").
"""
import fcntl
import os
import signal

KVM_CREATE_VM = 0xAE01

kvm = os.open("/dev/kvm", os.O_RDWR)
vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
signal.pause()
