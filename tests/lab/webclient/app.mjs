// The page: Hydrogen whole, from its login screen on.

import { FeatureSet, Platform, RootViewModel, createNavigation, createRouter } from "hydrogen-view-sdk";

const assetPaths = {
  downloadSandbox: "assets/download-sandbox.html",
  worker: "assets/main.js",
  olm: { wasm: "assets/olm.wasm", legacyBundle: "assets/olm_legacy.js", wasmBundle: "assets/olm.js" },
  serviceWorker: "sw.js",
};

const config = { defaultHomeServer: new URLSearchParams(location.search).get("homeserver") };
const platform = new Platform({ container: document.querySelector("#app"), assetPaths, config, options: { development: true } });
const navigation = createNavigation();
platform.setNavigation(navigation);
await platform.init();
const urlRouter = createRouter({ navigation, history: platform.history });
urlRouter.attach();
const features = await FeatureSet.load(platform.settingsStorage);
const model = new RootViewModel({ platform, urlRouter, urlCreator: urlRouter, navigation, features });
await model.load();
platform.createAndMountRootView(model);
