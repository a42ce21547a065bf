"""Devices that a request may be given: CDI specs, GPUs found by PCI, and what was granted of them.

Independent of engines; each hands what was granted to its own containers. Import the modules: start-up needs few.
"""
