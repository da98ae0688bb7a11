// A page's own styles, asked for when it is opened first.

/** Resolves when the file is in force; a missing one is no reason to show nothing. */
export function styled(name) {
  const url = new URL(name, import.meta.url).href;
  if ([...document.styleSheets].some((sheet) => sheet.href === url)) return Promise.resolve();
  return new Promise((resolve) => {
    const link = Object.assign(document.createElement("link"), { rel: "stylesheet", href: url });
    link.onload = link.onerror = resolve;
    document.head.append(link);
  });
}
