"""What every microVM engine shares on the host's side: the guest's kernel, initrd and root; the engine but its monitor.

`kernel.find`, `initrd.build` and `rootimage.build` each make a file in a cache once, whoever asks first; `scratch` and
`outputs` make the disks that one guest writes to. None of them blocks the event loop.
"""
