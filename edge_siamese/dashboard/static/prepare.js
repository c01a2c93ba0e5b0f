/** Scales pictures down in the browser, which spares the device, and uploads them. */

import { upload } from "./api.js";

/** Pixels of the longer side; models use far less. */
const SIDE = 1600;
const QUALITY = 0.9;
const SENT_UNCHANGED = ["image/jpeg", "image/png", "image/webp"];
const MAX_BYTES = 4_000_000;

/** The number of uploaded pictures that the device keeps. */
export const MAX_PICTURES = 12;

/**
 * Rotate a picture upright and scale it down to at most `SIDE` pixels.
 * @param {File} file
 * @returns {Promise<Blob>}
 */
export async function prepare(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(`This browser cannot read “${file.name}” as a picture.`);
  }
  const share = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height));
  if (share === 1 && SENT_UNCHANGED.includes(file.type) && file.size <= MAX_BYTES) {
    bitmap.close();
    return file;
  }
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * share));
  canvas.height = Math.max(1, Math.round(bitmap.height * share));
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // background of transparent pictures
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error(`“${file.name}” cannot be scaled down.`))), "image/jpeg", QUALITY);
  });
}

/**
 * Upload pictures one after the other.
 * @param {Blob[]} blobs
 * @param {(done: number) => void} progress
 * @returns {Promise<string[]>} their ids
 */
export async function uploadAll(blobs, progress = () => {}) {
  const ids = [];
  for (const blob of blobs) {
    ids.push((await upload("/uploads", blob)).upload);
    progress(ids.length);
  }
  return ids;
}
