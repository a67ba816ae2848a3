"""The link protocol: authenticated, encrypted, reliable whole messages over any wire, in both directions.

From the bottom up::

    wire.py         what a driver gives: frames that may be lost, doubled, damaged or overtaken
    noise.py        the Noise framework's symmetric part and the IK and NN patterns
    short_tags.py   sealing with tags of 8 bytes, for thin lines
    secure.py       handshake messages, sealed frames, replay window
    fragments.py    the chunks within a sealed frame; messages put together again
    window.py       acknowledgements, round-trip estimates, loss, retransmission timers
    airtime.py      who goes next (priorities), duty cycle
    session.py      one session: messages in and out on one side, frames on the other (sans-io)
    rendezvous.py   who starts, who answers, when a session replaces another (sans-io)
    connection.py   the same for trio: `Connection` and the long-lived `Link`
    pairing.py      two strangers exchange keys by a short code or a QR code
"""
