// Calls about a person's identity: cross-signing, secret storage, key backup, verification of devices, dehydrated devices.
// `lab` has the client and the recovery key of its secret storage.

import { decodeRecoveryKey } from "matrix-js-sdk/lib/crypto-api/index.js";

export const callbacks = (lab) => ({
  getSecretStorageKey: async ({ keys }) => (lab.recovery ? [Object.keys(keys)[0], lab.recovery] : null),
  cacheSecretStorageKey: (_, __, key) => { lab.recovery = key; },
});

export const encryptionCalls = (lab, until) => {
  const crypto = () => lab.client.getCrypto();

  // Says yes to whatever the other device shows: two devices of one laboratory.
  async function verified(request, begin) {
    await until("the other side", () => request.phase >= 3 || request.cancellationCode, 30);
    const verifier = begin ? await request.startVerification("m.sas.v1") : await until("the start", () => request.verifier, 30);
    // matrix-js-sdk now and then misses a change of its own verifier: it is looked at again until it has seen it.
    const nudged = (find) => () => { verifier.onChange(); return find(); };
    const ended = verifier.verify();
    const sas = await Promise.race([until("the emoji", nudged(() => verifier.getShowSasCallbacks()), 30), ended]);
    await sas.confirm();
    await Promise.all([ended, until("the end", nudged(() => request.phase === 6), 30)]);
    return null;
  }

  return {
    // Makes cross-signing keys, secret storage and a key backup; returns the recovery key. The first upload of keys is not to ask
    // for a password: if it does, `password` is what it gets and `asked` says so.
    async secure({ password }) {
      let asked = false;
      const authUploadDeviceSigningKeys = async (upload) => {
        try {
          return await upload(null);
        } catch (error) {
          asked = true;
          const identifier = { type: "m.id.user", user: lab.client.getUserId() };
          return upload({ type: "m.login.password", identifier, password, session: error.data.session });
        }
      };
      await crypto().bootstrapCrossSigning({ authUploadDeviceSigningKeys });
      const made = await crypto().createRecoveryKeyFromPassphrase();
      lab.recovery = made.privateKey;
      await crypto().bootstrapSecretStorage({ createSecretStorageKey: async () => made, setupNewKeyBackup: true });
      await until("the backup", () => crypto().getActiveSessionBackupVersion(), 30);
      return { recovery_key: made.encodedPrivateKey, asked };
    },

    // Takes the person's identity and backup on, on a device that has neither.
    async recover({ recovery_key: key }) {
      lab.recovery = decodeRecoveryKey(key);
      await until("the person's identity", () => crypto().userHasCrossSigningKeys(lab.client.getUserId(), true), 30);
      await crypto().bootstrapCrossSigning({});
      await crypto().loadSessionBackupPrivateKeyFromSecretStorage();
      await crypto().checkKeyBackupAndEnable();
      return crypto().restoreKeyBackup();
    },

    async backup_is_trusted() {
      return (await crypto().isKeyBackupTrusted(await crypto().getKeyBackupInfo())).matchesDecryptionKey;
    },

    async is_verified({ user_id: userId, device_id: deviceId }) {
      const status = await crypto().getDeviceVerificationStatus(userId, deviceId);
      return status?.crossSigningVerified ?? false;
    },

    // One device of a person asks for it, another answers; both return when the emoji have been compared. The request goes to the
    // devices that the one asking knows of, so it first has to have heard of another.
    async verify_own() {
      const me = lab.client.getUserId();
      await until("the person's identity", () => crypto().userHasCrossSigningKeys(me, true), 30);
      await until("another device", async () => (await crypto().getUserDeviceInfo([me], true)).get(me)?.size > 1, 30);
      return verified(await crypto().requestOwnUserVerification(), true);
    },

    async answer_verification() {
      const asked = () => crypto().getVerificationRequestsToDeviceInProgress(lab.client.getUserId())[0];
      const request = await until("the request", asked, 60);
      await request.accept();
      return verified(request, false);
    },

    // Whether the server keeps dehydrated devices; if so, wakes the one that there is and leaves a new one.
    async dehydrate() {
      if (!(await crypto().isDehydrationSupported())) return false;
      await crypto().startDehydration({ createNewKey: false });
      return true;
    },
  };
};
