"""Configuration: TOML in, plain values out. Each field carries its own help; `describe()` prints the documented example from it.

A wrong key or value is a `ConfigError`: one sentence that names the key, the value and what is allowed. Below `app.py` nobody sees this.
"""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

from edgeserver.matrix import identifiers, server_names

if TYPE_CHECKING:
    from collections.abc import Mapping

Section = TypeVar("Section")


class ConfigError(Exception):
    """One sentence for the person who wrote the file."""


def option(default: Any, text: str, *, allowed: tuple[str, ...] = (), example: Any = None) -> Any:
    """A field with its help text; `allowed` lists the only values, `example` is shown where the default says nothing."""
    metadata = {"help": text, "allowed": allowed, "example": example}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Server:
    """Who this box is and where it keeps things."""

    name: str = option(
        "",
        "The server name: a domain that you own, without a port unless it is part of the name."
        " Empty: the box names itself after its own key, as <label>.<suffix>. Names are permanent.",
    )
    suffix: str = option(
        "mesh",
        "For a self-named box: the domain of the gateway that fronts for it (gw.example.org), or mesh where there is none."
        " A .mesh box can never be reached from the internet.",
    )
    data: str = option("data", "The folder for keys, database and media; relative to this file.")
    log_level: str = option("info", "How much is logged.", allowed=("debug", "info", "warning", "error"))
    clock: str = option(
        "auto",
        "auto: the time is trusted while the kernel says it is synchronised, or once a paired peer has told it. system: always trust it.",
        allowed=("auto", "system"),
    )


@dataclass(frozen=True, slots=True)
class Http:
    """Where HTTP is served. Addresses are host:port; an empty list switches that listener off."""

    client: list[str] = option(["0.0.0.0:8008"], "Client API without TLS (for a LAN, or behind Caddy or nginx).")
    tls: list[str] = option([], "Client API and federation on one TLS port.", example=["0.0.0.0:443"])
    federation: list[str] = option(["0.0.0.0:8448"], "Federation over TLS.")
    certificate: str = option(
        "",
        "PEM file with the certificate chain, a wildcard one on a gateway; read again when it changes."
        " Empty: the box's own key certifies it.",
    )
    certificate_key: str = option("", "PEM file with the certificate's private key.")
    public_url: str = option("", "The base URL that clients are told in /.well-known/matrix/client. Empty: that page answers 404.")
    well_known_server: str = option("", "host:port for /.well-known/matrix/server. Empty: that page answers 404.")
    behind_proxy: bool = option(False, "Take the client's address from X-Forwarded-For (only behind a reverse proxy of yours).")


@dataclass(frozen=True, slots=True)
class Accounts:
    """Who may have an account."""

    registration: str = option(
        "closed",
        "closed: only `edgeserver person add`. token: who has a registration token. open: anybody who reaches the box (a lab switch).",
        allowed=("closed", "token", "open"),
    )
    registration_tokens: list[str] = option(
        [],
        "Tokens for registration = token that may be used any number of times. `edgeserver token add` makes others, which may be counted"
        " and expire.",
    )
    guests: int = option(
        0,
        "How many guests there may be at once: accounts without a password, for who reaches the box without a name or a token"
        " (visitors of a relief post, say). They read and join only what is open to guests. 0: none.",
    )
    login_tokens: bool = option(
        True,
        "Whether somebody who is logged in may, with their password, get a token that logs one further device in within two minutes.",
    )
    presence: bool = option(
        False,
        "Show people who is there (online, away, since when). It makes every app ask more often and servers talk more,"
        " so a small box is better off without.",
    )
    registration_shared_secret: str = option("", "Lab switch: lets tools register through /_synapse/admin/v1/register.")


@dataclass(frozen=True, slots=True)
class Features:
    """What is not in the Matrix specification yet."""

    thread_subscriptions: bool = option(
        False,
        "People follow threads one by one (MSC4306), as Element X lets them. A thread that somebody has not subscribed to notifies them"
        " of mentions only, whatever app they use: switch it on when everybody's apps know of it.",
    )


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds."""

    rate_limits: bool = option(True, "Lab switch: false lifts the rate limits.")
    upload_bytes: int = option(50_000_000, "The largest upload (m.upload.size).")
    media_quota_bytes: int = option(2_000_000_000, "All media of one person together.")
    remote_media_bytes: int = option(1_000_000_000, "The cache of other servers' media; the least recently used goes first.")


@dataclass(frozen=True, slots=True)
class Media:
    """Media beyond the sizes in [limits], and previews of links."""

    total_bytes: int = option(0, "All uploads of all people together. 0: as much as the disk holds.")
    free_disk_bytes: int = option(200_000_000, "What must stay free on the disk: media that would leave less is refused. 0: nothing.")
    files_per_person: int = option(100_000, "How many files one person may have uploaded (m.storage.max_files).")
    contact: str = option(
        "", "Whom to ask when there is no room left, a URI.", example="mailto:admin@example.org"
    )
    url_previews: bool = option(
        False,
        "Whether clients may ask this box for previews of links (title, description, image). The box then fetches pages that people"
        " write about: their sites learn the box's address, and the pages cost the line.",
    )


@dataclass(frozen=True, slots=True)
class Federation:
    """Talking to other servers."""

    internet: bool = option(True, "Whether this box may try to reach servers by DNS. A box with nothing but lines sets false.")
    extra_ca: str = option("", "Lab switch: PEM file with further certificate authorities.")
    private_addresses: bool = option(
        False, "Lab switch: allow private and loopback addresses for federation and other outgoing requests by DNS."
    )
    nameservers: list[str] = option([], "Name servers to ask instead of the system's.")
    partial_joins: bool = option(
        True, "Join rooms of other servers without their members, which are fetched in the background: large rooms are usable in seconds."
    )
    metered: bool = option(
        False,
        "The line is paid by volume: the members of such rooms are fetched only when somebody asks for them (apps do in encrypted rooms).",
    )
    verify_ordinary_keys_by: list[str] = option([], "Notaries to ask for other servers' keys when they cannot be asked themselves.")


@dataclass(frozen=True, slots=True)
class Turn:
    """A TURN server, which calls between people behind different routers need (coturn, say). Apps are given credentials for it."""

    uris: list[str] = option([], "Where it is. Empty: there is none.", example=["turn:turn.example.org:3478?transport=udp"])
    shared_secret: str = option("", "What coturn has as static-auth-secret, beside use-auth-secret.", example="a long random text")
    lifetime: int = option(86400, "For how many seconds credentials are good.")


@dataclass(frozen=True, slots=True)
class Notices:
    """Server notices: what the operator has to say to people (`edgeserver notice`), in a room of each person's own."""

    user: str = option("notices", "The user name under which they are sent; the account is made with the first one. Empty: there are none.")
    name: str = option("Server Notices", "The name of that user, and of the rooms.")
    avatar_url: str = option("", "The picture of that user: an mxc:// URI.")
    auto_join: bool = option(False, "Put people into their rooms of notices, instead of inviting them.")


@dataclass(frozen=True, slots=True)
class Contact:
    """One way to reach who runs the box, with a matrix_id, an email_address or both. `[[contacts]]`, as many as there are."""

    role: str = option("m.role.admin", "m.role.admin, m.role.security (for what is delicate), or a name of your own: org.example.press.")
    matrix_id: str = option("", "A Matrix user, perhaps on another server.", example="@admin:example.org")
    email_address: str = option("", "An email address.", example="admin@example.org")
    pgp_key: str = option("", "URI of the OpenPGP key to write to that address with (MSC4439).", example="https://example.org/key.asc")


@dataclass(frozen=True, slots=True)
class Support:
    """Whom to turn to: /.well-known/matrix/support (MSC1929), with the [[contacts]]. Without either it answers 404."""

    page: str = option("", "A page that helps people of this server.", example="https://example.org/support.html")


@dataclass(frozen=True, slots=True)
class Link:
    """One thin line. `[[links]]`, as many as there are."""

    uri: str = option(
        "",
        "serial:/dev/ttyUSB0,2400 | rs485:/dev/ttyUSB0,9600 (many stations on one pair of wires: one block with a name of its own for"
        " each of them) | udp-listen:0.0.0.0:7710 | udp:gateway.example.org:7710 (dials out, works through NAT).",
        example="serial:/dev/ttyUSB0,2400",
    )
    name: str = option("", "What logs and `link status` call it. Empty: the URI.")


@dataclass(frozen=True, slots=True)
class Discovery:
    """Finding and being found on the LAN."""

    mdns: bool = option(True, "Announce this box and look for others by mDNS.")
    interfaces: list[str] = option([], "Addresses of the interfaces to use. Empty: all.")


@dataclass(frozen=True, slots=True)
class LowBandwidth:
    """The client API in few bytes, as CoAP and CBOR over DTLS (MSC3079), for apps that speak it. Off while nothing is named here."""

    listen: list[str] = option(
        [],
        "host:port (UDP) to listen on. Open it to whom you open HTTPS to: people log in over it as they do there.",
        example=["0.0.0.0:8448"],
    )
    lines: list[str] = option(
        [],
        "Serial lines on which one app each speaks the same; its DTLS records are frames (HDLC, CRC-16)."
        " A port is either such a line or one of [[links]].",
        example=["serial:/dev/ttyUSB1,9600"],
    )
    port: int = option(0, "The UDP port that clients are told of in /versions. 0: that of the first address.")
    certificate: bool = option(True, "Let clients in that check a certificate: the one of [http], or one that the box makes itself.")
    pre_shared_keys: list[str] = option(
        [],
        "identity:key, with the key in hexadecimal digits, for clients that use a key instead: their connections cost half as many bytes."
        " It opens the line only; people log in all the same.",
        example=["rover:2f7d0c5e9b1a48d3a6c4e8f01b2d3c4a"],
    )


@dataclass(frozen=True, slots=True)
class Bridges:
    """Application services: bridges to other networks, and bots, that run beside this box."""

    registrations: list[str] = option(
        [],
        "Their registration files (YAML), as each bridge generates its own; relative to this file.",
        example=["mautrix-telegram.yaml"],
    )


@dataclass(frozen=True, slots=True)
class Push:
    """Notifications to phones."""

    unifiedpush: bool = option(
        True,
        "This box is a UnifiedPush server and push gateway for Android phones on its network (the ntfy app with this box as its default"
        " server): they are notified without internet. Whoever reaches the box may use topics whose name begins with up.",
    )
    unifiedpush_urls: list[str] = option(
        [],
        "Base URLs by which phones reach this box, such as http://192.168.1.10:8008, beyond its server name, public_url and the machine's"
        " own addresses and host name (needed in a container, say).",
    )
    internet_gateways: bool = option(
        True, "Tell push gateways on the internet, which apps with Google's or Apple's push service need (if the box uses the internet)."
    )
    private_gateways: list[str] = option(
        [],
        "Base URLs of push gateways in private networks that may be called, such as http://192.168.1.20:2586. No other private address is.",
    )


@dataclass(frozen=True, slots=True)
class Smtp:
    """Sending mail, so that people may add email addresses to their accounts and set a new password by mail."""

    host: str = option("", "The mail server that takes this box's mail. Empty: no mail is sent and no email address taken.")
    port: int = option(587, "Its port.")
    tls: str = option(
        "starttls",
        "starttls: encrypt after connecting (port 587). implicit: from the first byte (port 465). none: never (a relay on this machine).",
        allowed=("starttls", "implicit", "none"),
    )
    user: str = option("", "The name to log in with. Empty: no log-in.")
    password: str = option("", "The password to log in with.")
    sender: str = option("", "The address that mails come from, such as matrix@example.org. Needed with host.")
    registration: str = option(
        "optional",
        "Whether who registers by an app gives an email address. A registration token is asked for as well where one is needed.",
        allowed=("no", "optional", "required"),
    )
    extra_ca: str = option("", "Lab switch: PEM file with further certificate authorities for the mail server.")


@dataclass(frozen=True, slots=True)
class Lab:
    """Switches for laboratories; none is for the field."""

    query_access_token: bool = option(False, "Accept the deprecated ?access_token=.")


@dataclass(frozen=True, slots=True)
class Config:
    """The whole file."""

    server: Server = field(default_factory=Server)
    http: Http = field(default_factory=Http)
    accounts: Accounts = field(default_factory=Accounts)
    features: Features = field(default_factory=Features)
    limits: Limits = field(default_factory=Limits)
    federation: Federation = field(default_factory=Federation)
    links: list[Link] = field(default_factory=list)
    contacts: list[Contact] = field(default_factory=list)
    discovery: Discovery = field(default_factory=Discovery)
    low_bandwidth: LowBandwidth = field(default_factory=LowBandwidth)
    push: Push = field(default_factory=Push)
    turn: Turn = field(default_factory=Turn)
    notices: Notices = field(default_factory=Notices)
    support: Support = field(default_factory=Support)
    lab: Lab = field(default_factory=Lab)
    folder: Path = field(default_factory=Path)
    bridges: Bridges = field(default_factory=Bridges)
    media: Media = field(default_factory=Media)
    smtp: Smtp = field(default_factory=Smtp)

    @property
    def data(self) -> Path:
        """The data folder, absolute or relative to the working directory."""
        return self.folder / self.server.data


_SECTIONS: Mapping[str, type] = {
    "server": Server,
    "http": Http,
    "accounts": Accounts,
    "features": Features,
    "limits": Limits,
    "media": Media,
    "federation": Federation,
    "discovery": Discovery,
    "low_bandwidth": LowBandwidth,
    "push": Push,
    "turn": Turn,
    "notices": Notices,
    "support": Support,
    "smtp": Smtp,
    "lab": Lab,
    "bridges": Bridges,
}


def load(path: Path) -> Config:
    """Reads a file. Raises `ConfigError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text.") from error
    return parse(text, path.parent, str(path))


def parse(text: str, folder: Path = Path(), source: str = "the configuration") -> Config:
    """Reads the text of a file. Raises `ConfigError`."""
    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} is not valid TOML: {error}.") from error
    known = {*_SECTIONS, "links", "contacts"}
    for name in given:
        if name not in known:
            raise ConfigError(f"{source}: there is no section [{name}]; there are {', '.join(sorted(known))}.")
    sections: dict[str, Any] = {name: _section(kind, given.get(name, {}), f"[{name}]") for name, kind in _SECTIONS.items()}
    links, contacts = given.get("links", []), given.get("contacts", [])
    if not isinstance(links, list):
        raise ConfigError("links must be written as [[links]], one block for each line.")
    if not isinstance(contacts, list):
        raise ConfigError("contacts must be written as [[contacts]], one block for each.")
    sections["links"] = [_section(Link, one, "[[links]]") for one in links]
    sections["contacts"] = [_section(Contact, one, "[[contacts]]") for one in contacts]
    config = Config(**sections, folder=folder)
    _check(config)
    return config


def _section(kind: type[Section], given: object, where: str) -> Section:
    if not isinstance(given, dict):
        raise ConfigError(f"{where} must be a section with keys.")
    hints = get_type_hints(kind)
    known = {one.name: one for one in fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key not in known:
            raise ConfigError(f"{where} has no key {key}; it has {', '.join(known)}.")
        if not _fits(value, hints[key]):
            raise ConfigError(f"{where} {key} = {value!r} is not {_type_name(hints[key])}.")
        allowed = known[key].metadata.get("allowed") or ()
        if allowed and value not in allowed:
            raise ConfigError(f"{where} {key} = {value!r} is not allowed; it is one of {', '.join(allowed)}.")
        values[key] = value
    return kind(**values)


def _fits(value: object, hint: Any) -> bool:
    if get_origin(hint) is list:
        (item,) = get_args(hint)
        return isinstance(value, list) and all(_fits(one, item) for one in value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return isinstance(value, hint)


def _type_name(hint: Any) -> str:
    names = {str: "text in quotes", int: "a whole number, 0 or more", bool: "true or false"}
    return "a list of texts" if get_origin(hint) is list else names[hint]


def _check(config: Config) -> None:
    name = config.server.name
    if name and not server_names.is_valid(name):
        raise ConfigError(f"[server] name = {name!r} is not a server name; it is a domain such as box.example.org.")
    suffix = config.server.suffix
    if not server_names.is_valid(suffix) or ":" in suffix:
        raise ConfigError(f"[server] suffix = {suffix!r} is not a domain; it is the gateway's, such as gw.example.org, or mesh.")
    for key in ("client", "tls", "federation"):
        for address in getattr(config.http, key):
            host_and_port(address, f"[http] {key}")
    _check_low_bandwidth(config.low_bandwidth, config.links)
    if bool(config.http.certificate) != bool(config.http.certificate_key):
        raise ConfigError("[http] certificate and certificate_key go together: give both or neither.")
    for key in ("unifiedpush_urls", "private_gateways"):
        for url in getattr(config.push, key):
            origin_of(url, f"[push] {key}")
    _check_services(config)
    if config.smtp.host and not config.smtp.sender:
        raise ConfigError("[smtp] sender is needed with host: the address that mails come from, such as matrix@example.org.")
    if config.smtp.host and not config.http.public_url:
        raise ConfigError("[smtp] host needs [http] public_url: the links in mails lead there.")
    for link in config.links:
        if not link.uri:
            raise ConfigError("[[links]] needs a uri, such as serial:/dev/ttyUSB0,2400.")


def _check_low_bandwidth(section: LowBandwidth, links: list[Link]) -> None:
    for address in section.listen:
        host_and_port(address, "[low_bandwidth] listen")
    ports = [_serial_port(uri) for uri in section.lines]
    for uri, port in zip(section.lines, ports, strict=True):
        if not port:
            raise ConfigError(f"[low_bandwidth] lines: {uri!r} is not serial:PATH,BAUD, such as serial:/dev/ttyUSB1,9600.")
        if ports.count(port) > 1:
            raise ConfigError(f"[low_bandwidth] lines names the port {port} more than once.")
        if any(_serial_port(link.uri) == port for link in links):
            raise ConfigError(f"The port {port} cannot be one of [[links]] and of [low_bandwidth] lines at once.")
    for given in section.pre_shared_keys:
        pre_shared_key(given)
    if section.port > 65535:
        raise ConfigError(f"[low_bandwidth] port = {section.port} is not a port, which is below 65536.")
    if (section.listen or section.lines) and not (section.certificate or section.pre_shared_keys):
        key = "listen" if section.listen else "lines"
        raise ConfigError(f"[low_bandwidth] {key} needs certificate = true or pre_shared_keys: a line has to be encrypted by something.")


def _serial_port(uri: str) -> str:
    """The path in serial:PATH,BAUD; empty if it is anything else."""
    kind, _, rest = uri.partition(":")
    path, _, baud = rest.rpartition(",")
    return path if kind == "serial" and baud.isascii() and baud.isdecimal() and int(baud) >= 50 else ""


def _check_services(config: Config) -> None:
    turn, notices = config.turn, config.notices
    for uri in turn.uris:
        if not uri.startswith(("turn:", "turns:", "stun:", "stuns:")):
            raise ConfigError(f"[turn] uris: {uri!r} is not the URI of a TURN server, such as turn:turn.example.org:3478?transport=udp.")
    if turn.uris and not turn.shared_secret:
        raise ConfigError("[turn] needs a shared_secret: what coturn has as static-auth-secret.")
    if turn.uris and turn.lifetime < 60:
        raise ConfigError("[turn] lifetime is in seconds; credentials of less than 60 are of no use to anybody.")
    for contact in config.contacts:
        if not (contact.matrix_id or contact.email_address):
            raise ConfigError("[[contacts]] needs a matrix_id or an email_address.")
        if contact.matrix_id and not identifiers.is_user_id(contact.matrix_id):
            raise ConfigError(f"[[contacts]] matrix_id = {contact.matrix_id!r} is not a Matrix user, such as @admin:example.org.")
    if notices.user and not identifiers.is_strict_localpart(notices.user):
        raise ConfigError(f"[notices] user = {notices.user!r} is not a user name, which consists of a-z, 0-9 and ._=-/+ and is short.")


def host_and_port(address: str, where: str) -> tuple[str, int]:
    """Splits host:port. Raises `ConfigError`."""
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()) or not 0 <= int(port) < 65536:
        raise ConfigError(f"{where} = {address!r} is not host:port, such as 0.0.0.0:8008.")
    return host.strip("[]"), int(port)


def pre_shared_key(given: str) -> tuple[bytes, bytes]:
    """Identity and key of identity:hexadecimal digits. Raises `ConfigError`."""
    identity, _, digits = given.rpartition(":")
    try:
        key = bytes.fromhex(digits)
    except ValueError:
        key = b""
    if not 0 < len(identity.encode()) <= 128 or not 16 <= len(key) <= 64:
        raise ConfigError("[low_bandwidth] pre_shared_keys are identity:key, with 32 to 128 hexadecimal digits after the last colon.")
    return identity.encode(), key


def origin_of(url: str, where: str) -> tuple[str, str, int]:
    """Scheme, host (in lower case) and port of a base URL. Raises `ConfigError`."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    except ValueError:
        parts, port = urlsplit(""), 0
    if not port or not parts.hostname or parts.path not in ("", "/") or parts.query or "@" in parts.netloc:
        raise ConfigError(f"{where} = {url!r} is not a base URL, such as http://192.168.1.10:8008.")
    return parts.scheme, parts.hostname, port


def describe() -> str:
    """The documented example: every section and key with its help and default."""
    parts = [
        "# edgeserver configuration. Every key is optional.\n"
        "# What stands here after # is the default, or an example where nothing is the default (tls, uri)."
    ]
    for name, kind in _SECTIONS.items():
        parts.append(_describe_section(f"[{name}]", kind))
    parts.append(_describe_section("[[contacts]]", Contact, commented=True))
    parts.append(_describe_section("[[links]]", Link, commented=True))
    return "\n\n".join(parts) + "\n"


def _describe_section(title: str, kind: type, *, commented: bool = False) -> str:
    lines = [f"# {(kind.__doc__ or '').strip()}", f"# {title}" if commented else title]
    for one in fields(kind):
        default = one.default if one.default is not MISSING else one.default_factory() if one.default_factory is not MISSING else None
        example = one.metadata.get("example")
        lines += ["", *_wrapped(one.metadata["help"])]
        allowed = one.metadata.get("allowed")
        if allowed:
            lines.append(f"# One of: {', '.join(allowed)}.")
        lines.append(f"# {one.name} = {_toml(example if example is not None and not default else default)}")
    return "\n".join(lines)


def _wrapped(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, 100, initial_indent="# ", subsequent_indent="# ")


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(one) for one in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)
