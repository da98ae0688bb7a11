// The page for who only watches: whatever is made comes on the stage. It asks, and sends nothing.

import { made, part } from "./dom.js";
import { Feed } from "./feed.js";
import { Session } from "./session.js";
import { theming } from "./theming.js";

const RESTS = "Nothing is being made right now.";
const NOTHING = { used() {}, setSeed() {}, useImage() {} }; // there is no form here

async function begin() {
  const root = part("room");
  theming({ ownPage: true });
  part("hint", root).replaceChildren(
    "Nothing has been made yet.", made("br"), "The next picture comes out of this noise while you watch.",
  );
  part("gallery", root).querySelector("h2").textContent = "Made so far";
  const session = new Session(root, NOTHING);
  session.watchesAll = true;
  await session.resume();
  if (!session.isRunning) session.status.say(RESTS, { spoken: false });
  new Feed((queue) => session.lined(queue), () => {
    session.watch?.close();
    session.ended();
    session.status.problem("This link was taken back; it opens nothing any more");
  });
}

begin();
