/** Makes pictures small enough to send, in the browser: the device has better things to do. */

import { upload } from "./api.js";

/** The longer side of what is sent; models look at far less. */
const SIDE = 1600;
const QUALITY = 0.9;
const AS_THEY_ARE = ["image/jpeg", "image/png", "image/webp"];
const MOST_BYTES = 4_000_000;

/** As many pictures as the device keeps at a time. */
export const MOST = 12;

/**
 * A picture as it will be sent: turned upright, at most 1600 pixels wide or high.
 * @param {File} file
 * @returns {Promise<Blob>}
 */
export async function prepared(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(`This browser cannot read “${file.name}” as a picture.`);
  }
  const share = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height));
  if (share === 1 && AS_THEY_ARE.includes(file.type) && file.size <= MOST_BYTES) {
    bitmap.close();
    return file;
  }
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * share));
  canvas.height = Math.max(1, Math.round(bitmap.height * share));
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // what is transparent is paper
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error(`“${file.name}” cannot be scaled down.`))), "image/jpeg", QUALITY);
  });
}

/**
 * Send pictures one after the other.
 * @param {Blob[]} blobs
 * @param {(done: number) => void} progress
 * @returns {Promise<string[]>} the ids by which the device knows them
 */
export async function sent(blobs, progress = () => {}) {
  const ids = [];
  for (const blob of blobs) {
    ids.push((await upload("/uploads", blob)).upload);
    progress(ids.length);
  }
  return ids;
}
