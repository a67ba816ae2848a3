// A matrix-js-sdk client with end-to-end encryption, driven by lines of JSON on stdin (see tests/lab/rpc.py).
// It answers the same calls as tests/lab/nio.py. Keys are held in memory: Node has no IndexedDB.

import readline from "node:readline";

for (const level of ["log", "debug", "info", "trace"]) console[level] = (...words) => console.warn(...words);
const sdk = await import("matrix-js-sdk");
const { callbacks, encryptionCalls } = await import("./encryption.mjs");
const { sectionCalls } = await import("./sections.mjs");

const ENCRYPTION = { type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } };
const lab = { client: null, recovery: null };
let client = null;
let base = "";

async function http(method, path, body, token = client?.getAccessToken()) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  if (body !== null && body !== undefined) headers["Content-Type"] = "application/json";
  const response = await fetch(base + path, { method, headers, body: headers["Content-Type"] && JSON.stringify(body) });
  const text = await response.text();
  let json = null;
  try { json = JSON.parse(text); } catch { /* not every answer is JSON */ }
  return { status: response.status, json };
}

function good(answer, what) {
  if (answer.status !== 200) throw new Error(`${what}: ${answer.status} ${JSON.stringify(answer.json)}`);
  return answer.json;
}

async function until(what, find, within) {
  const deadline = Date.now() + within * 1000;
  for (;;) {
    const found = await find();
    if (found !== null && found !== undefined && found !== false) return found;
    if (Date.now() > deadline) throw new Error(`${what}: not within ${within} s`);
    await new Promise((resolve) => setTimeout(resolve, 30));
  }
}

// What Element's experimental sliding sync asked for: all rooms in one list, and the room that is open in full.
const STATE = [["m.room.member", "$LAZY"], ["m.room.member", "$ME"], ["*", "*"]];
const LISTS = { rooms: { ranges: [[0, 19]], timeline_limit: 20, required_state: STATE } };

async function begin(answer, { sliding = false, encrypts = true } = {}) {
  client = lab.client = sdk.createClient({
    baseUrl: base, userId: answer.user_id, deviceId: answer.device_id, accessToken: answer.access_token,
    cryptoCallbacks: callbacks(lab), verificationMethods: ["m.sas.v1"],
  });
  if (encrypts) await client.initRustCrypto({ useIndexedDB: false });
  let ready = false;
  client.on("sync", (state) => { ready ||= state === "PREPARED" || state === "SYNCING"; });
  const more = {};
  if (sliding) {
    const { SlidingSync } = await import("matrix-js-sdk/lib/sliding-sync.js");
    const open = { timeline_limit: 50, required_state: [["*", "*"]] };
    lab.sliding = more.slidingSync = new SlidingSync(base, new Map(Object.entries(LISTS)), open, client, 4000);
  }
  await client.startClient({ initialSyncLimit: 50, threadSupport: true, ...more });
  await until("the first sync", () => ready, 60);
  if (encrypts) await until("the keys", async () => (await client.getCrypto().getOwnDeviceKeys()).ed25519, 30);
  return { user_id: answer.user_id, device_id: answer.device_id, access_token: answer.access_token };
}

function timeline(roomId) {
  const events = client.getRoom(roomId)?.getLiveTimeline().getEvents() ?? [];
  return events.filter((event) => event.status === null && !event.getId().startsWith("~"));
}

function told(event) {
  const readable = event.isEncrypted() && event.getType() !== "m.room.encrypted" && !event.isDecryptionFailure();
  return { ...event.getEffectiveEvent(), room_id: event.getRoomId(), event_id: event.getId(), decrypted: readable };
}

const isJoined = (roomId, userId) => client.getRoom(roomId)?.getMember(userId)?.membership === "join";

const calls = {
  async login({ homeserver, user, password, sliding }) {
    base = homeserver;
    const body = {
      type: "m.login.password", identifier: { type: "m.id.user", user }, password,
      initial_device_display_name: "edge lab",
    };
    return begin(good(await http("POST", "/_matrix/client/v3/login", body), "login"), { sliding });
  },

  async session() {
    return { user_id: client.getUserId(), device_id: client.getDeviceId(), access_token: client.getAccessToken() };
  },

  // A session that was kept, and nothing of its rooms; its keys are lost, so it reads what is in clear.
  async resume({ homeserver, session }) {
    base = homeserver;
    return begin(session, { encrypts: false });
  },

  async register({ homeserver, user, password, token }) {
    base = homeserver;
    const body = { username: user, password, initial_device_display_name: "edge lab" };
    const path = "/_matrix/client/v3/register";
    let answer = await http("POST", path, body);
    for (let stage = 0; answer.status === 401 && stage < 4; stage++) {
      const done = answer.json.completed ?? [];
      const type = token && !done.includes("m.login.registration_token") ? "m.login.registration_token" : "m.login.dummy";
      const auth = { type, session: answer.json.session, ...(type === "m.login.dummy" ? {} : { token }) };
      answer = await http("POST", path, { ...body, auth });
    }
    return begin(good(answer, "register"));
  },

  async create_room({ encrypted, room_version: version, body }) {
    const wanted = { ...body, ...(version ? { room_version: version } : {}) };
    if (encrypted) wanted.initial_state = [...(wanted.initial_state ?? []), ENCRYPTION];
    const { room_id: roomId } = good(await http("POST", "/_matrix/client/v3/createRoom", wanted), "createRoom");
    await until("create_room", () => isJoined(roomId, client.getUserId()), 60);
    return roomId;
  },

  async invite({ room_id: roomId, user_id: userId }) { await client.invite(roomId, userId); return null; },

  async join({ room, via, within }) {
    const { roomId } = await client.joinRoom(room, { viaServers: via });
    await until("join", () => isJoined(roomId, client.getUserId()), within);
    return roomId;
  },

  async leave({ room_id: roomId }) { await client.leave(roomId); return null; },

  async send({ room_id: roomId, kind, content, stubborn }) {
    try {
      return (await client.sendEvent(roomId, kind, content)).event_id;
    } catch (error) {
      if (!stubborn) throw error;
    }
    // Somebody presses "resend" until it is sent: the same event, under the same transaction id.
    const room = client.getRoom(roomId);
    const waiting = room.getLiveTimeline().getEvents().find((event) => event.status !== null && event.getContent().body === content.body);
    while (waiting && waiting.status !== null && waiting.status !== "sent") {
      await new Promise((resolve) => setTimeout(resolve, 300));
      if (waiting.status === "not_sent") await client.resendEvent(waiting, room).catch(() => null);
    }
    return waiting?.getId() ?? null;
  },

  async wait_message({ room_id: roomId, body, within }) {
    const find = () => timeline(roomId).find((event) => event.getContent().body === body);
    return told(await until(`wait_message ${body}`, find, within));
  },

  async wait_event({ room_id: roomId, event_id: eventId, within }) {
    const readable = (event) => event.getType() !== "m.room.encrypted" && !event.isDecryptionFailure();
    const find = () => timeline(roomId).find((event) => event.getId() === eventId && readable(event));
    return told(await until(`wait_event ${eventId}`, find, within));
  },

  async wait_invite({ room_id: roomId, within }) {
    await until("wait_invite", () => client.getRoom(roomId)?.getMyMembership() === "invite", within);
    return null;
  },

  async wait_member({ room_id: roomId, user_id: userId, within }) {
    await until(`wait_member ${userId}`, () => isJoined(roomId, userId), within);
    if (client.getRoom(roomId).hasEncryptionStateEvent()) {
      const known = async () => (await client.getCrypto().getUserDeviceInfo([userId], true)).get(userId)?.size > 0;
      await until(`wait_member: the devices of ${userId}`, known, within);
    }
    return null;
  },

  // All events of the room from its beginning on, as after scrolling up: what a limited sync has left out is fetched.
  async scrolled({ room_id: roomId }) {
    const room = client.getRoom(roomId);
    while (room.oldState.paginationToken !== null) await client.scrollback(room, 100);
    await Promise.all(room.getLiveTimeline().getEvents().map((event) => event.getDecryptionPromise()));
    return timeline(roomId).map(told);
  },

  async events({ room_id: roomId }) { return timeline(roomId).map(told); },

  async members({ room_id: roomId }) {
    return (client.getRoom(roomId)?.getJoinedMembers() ?? []).map((member) => member.userId).sort();
  },

  // Of sliding sync: how many rooms the server counts in the list, and another range of it; a room that is opened.
  async list_count() { return lab.sliding.getListData("rooms").joinedCount; },

  async list_range({ last }) { lab.sliding.setListRanges("rooms", [[0, last]]); return null; },

  async open_room({ room_id: roomId }) { lab.sliding.modifyRoomSubscriptions(new Set([roomId])); return null; },

  async wait_named({ room_id: roomId, name, within }) {
    await until(`wait_named ${name}`, () => client.getRoom(roomId)?.name === name, within);
    return null;
  },

  async http({ method, path, body }) { return http(method, path, body); },

  ...encryptionCalls(lab, until),
  ...sectionCalls(lab, until),
};

const lines = readline.createInterface({ input: process.stdin });
lines.on("line", async (line) => {
  const { id, method, params } = JSON.parse(line);
  let answer;
  try {
    if (!Object.hasOwn(calls, method)) throw new Error(`no such call: ${method}`);
    answer = { id, result: (await calls[method](params)) ?? null };
  } catch (error) {
    console.warn(error);
    answer = { id, error: String(error?.message ?? error) };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
});
lines.on("close", () => { client?.stopClient(); process.exit(0); });
