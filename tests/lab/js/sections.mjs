// Calls about what a client shows beside the timeline: threads, edits, reactions, spaces, search, media, pushers.

export const sectionCalls = (lab, until) => ({
  async thread({ room_id: roomId, root, length }) {
    const room = lab.client.getRoom(roomId);
    const thread = await until("the thread", () => room.getThread(root), 30);
    const replies = () => thread.events.filter((event) => event.getId() !== root);
    await until("its events", () => thread.initialEventsFetched && thread.length === length && replies().length === length, 30);
    return replies().map((event) => event.getContent().body);
  },

  async threads({ room_id: roomId }) {
    const room = lab.client.getRoom(roomId);
    await room.createThreadsTimelineSets();
    await room.fetchRoomThreads();
    return room.getThreads().map((thread) => thread.id);
  },

  async wait_edited({ room_id: roomId, event_id: eventId, body, within }) {
    const event = () => lab.client.getRoom(roomId).findEventById(eventId);
    await until("the edit", () => event()?.getContent().body === body, within);
    return null;
  },

  async relations({ room_id: roomId, event_id: eventId, rel_type: relType }) {
    const found = await lab.client.relations(roomId, eventId, relType, null);
    return found.events.map((event) => event.getId());
  },

  async redact({ room_id: roomId, event_id: eventId }) { return (await lab.client.redactEvent(roomId, eventId)).event_id; },

  async wait_unread({ room_id: roomId, total, highlight, within }) {
    const count = (kind) => lab.client.getRoom(roomId)?.getUnreadNotificationCount(kind) ?? 0;
    const told = () => `unread ${total}/${highlight}, not ${count("total")}/${count("highlight")}`;
    const right = () => count("total") === total && count("highlight") === highlight;
    await until("the counts", right, within).catch((error) => { throw new Error(`${told()}: ${error.message}`); });
    return null;
  },

  async read({ room_id: roomId, event_id: eventId }) {
    await lab.client.sendReadReceipt(lab.client.getRoom(roomId).findEventById(eventId));
    return null;
  },

  async search({ term }) {
    const found = await lab.client.searchRoomEvents({ term });
    return { count: found.count, ids: found.results.map((result) => result.context.getEvent().getId()) };
  },

  async hierarchy({ room_id: roomId }) {
    const found = await lab.client.getRoomHierarchy(roomId);
    return found.rooms.map((room) => room.room_id);
  },

  // Uploads bytes (base64) and fetches them again as a client shows them: by the authenticated endpoint.
  async upload({ name, type, data }) {
    const { content_uri: uri } = await lab.client.uploadContent(new Blob([Buffer.from(data, "base64")], { type }), { name, type });
    return uri;
  },

  async download({ uri, width, height }) {
    const url = lab.client.mxcUrlToHttp(uri, width, height, width && "scale", false, true, true);
    const response = await fetch(url, { headers: { Authorization: `Bearer ${lab.client.getAccessToken()}` } });
    const bytes = Buffer.from(await response.arrayBuffer());
    return { status: response.status, type: response.headers.get("content-type"), data: bytes.toString("base64") };
  },

  async set_pusher({ pusher }) { await lab.client.setPusher(pusher); return null; },
});
