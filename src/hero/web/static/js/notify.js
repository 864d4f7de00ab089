// A sound and a notification when a round is ready: for those who have asked for them, while they look elsewhere.

import { read, write } from "./memory.js";

const PITCHES = [660, 880]; // Hz
const LENGTH = 0.16; // seconds of each

let audio = null;

export const isOn = () => Boolean(read("notify"));

/** Turns it on or off; asks the browser for leave to notify, and plays the sound once, so that one knows it. */
export async function toggle() {
  write("notify", isOn() ? null : true);
  if (!isOn()) return;
  audio ??= new AudioContext(); // a browser allows it on a press of a button
  sound();
  if ("Notification" in window && Notification.permission === "default") await Notification.requestPermission();
}

/** Says `words` to somebody who looks elsewhere. */
export function tell(words) {
  if (!isOn() || document.hasFocus()) return;
  sound();
  if ("Notification" in window && Notification.permission === "granted") new Notification("hero", { body: words });
}

function sound() {
  if (!audio) return; // after a reload there is none until the next press; the notification comes anyway
  PITCHES.forEach((pitch, at) => {
    const [tone, volume] = [audio.createOscillator(), audio.createGain()];
    const start = audio.currentTime + at * LENGTH;
    tone.frequency.value = pitch;
    volume.gain.setValueAtTime(0.15, start);
    volume.gain.linearRampToValueAtTime(0, start + LENGTH);
    tone.connect(volume).connect(audio.destination);
    tone.start(start);
    tone.stop(start + LENGTH);
  });
}
