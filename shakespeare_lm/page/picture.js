"use strict";
// The coloured text as a picture (SVG, PNG), and files to save.

const [CELL, LINE, MARGIN, COLUMNS] = [9.6, 24, 24, 64];
const MOST_LINES = 300; // so that the picture is not larger than browsers can draw

// Lines of {text, className}, wrapped; only the last ones of a long text.
function pictureLines(clusters, likelihoods) {
  const lines = [[]];
  for (const { text, first } of clusters) {
    if (text === "\n") lines.push([]);
    else {
      if (lines.at(-1).length === COLUMNS) lines.push([]);
      lines.at(-1).push({ text, className: surpriseClass(likelihoods[first]) });
    }
  }
  return lines.slice(-MOST_LINES);
}

function pictureOf(clusters, likelihoods, caption) {
  const lines = pictureLines(clusters, likelihoods);
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const height = 2 * MARGIN + LINE * (lines.length + 1.5);
  const width = 2 * MARGIN + CELL * COLUMNS;
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">`,
    `<rect width="100%" height="100%" fill="${colour("sheet")}"/>`,
    `<g font-family="monospace" font-size="16" fill="${colour("ink")}">`,
  ];
  lines.forEach((line, row) => {
    const top = MARGIN + row * LINE;
    line.forEach(({ text, className }, column) => {
      const left = (MARGIN + column * CELL).toFixed(1);
      if (className) parts.push(`<rect x="${left}" y="${top}" width="${CELL}" height="${LINE - 2}" fill="${colour(className)}"/>`);
      if (text !== " ") parts.push(`<text x="${left}" y="${top + 16}">${escapeXml(text)}</text>`);
    });
  });
  const bottom = height - MARGIN;
  parts.push(`<text x="${MARGIN}" y="${bottom}" fill="${colour("quiet")}" font-size="13">${escapeXml(caption)}</text></g></svg>`);
  return parts.join("");
}

function escapeXml(text) {
  const named = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
  // XML has no control characters.
  return text.replace(/[\x00-\x08\x0b-\x1f\ufffe\uffff]/g, "\ufffd").replace(/[&<>"]/g, (one) => named[one]);
}

// Draws the SVG at twice its size, as sharp screens show it.
async function pngOf(svg) {
  const image = new Image();
  const url = URL.createObjectURL(new Blob([svg], { type: "image/svg+xml" }));
  try {
    image.src = url;
    await image.decode();
    const canvas = document.createElement("canvas");
    const scale = image.height > 4000 ? 1 : 2;
    [canvas.width, canvas.height] = [scale * image.width, scale * image.height];
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  } finally {
    URL.revokeObjectURL(url);
  }
}

function saveFile(name, content, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
