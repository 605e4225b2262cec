/** Colours of groups: as far apart as so many can be, on light and on dark. */

export const MOST = 20; // groups with a colour of their own
const OTHER = { light: [150, 155, 160], dark: [105, 112, 120] };

/** Whether the page is dark now. */
export const isDark = () => matchMedia("(prefers-color-scheme: dark)").matches;

/** From OKLCH to sRGB, 0..255: Ottosson, "A perceptual color space for image processing" (2020). */
function rgb(lightness, chroma, hue) {
  const [a, b] = [chroma * Math.cos(hue), chroma * Math.sin(hue)];
  const [l, m, s] = [
    lightness + 0.3963377774 * a + 0.2158037573 * b,
    lightness - 0.1055613458 * a - 0.0638541728 * b,
    lightness - 0.0894841775 * a - 1.291485548 * b,
  ].map((root) => root ** 3);
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ].map((x) => Math.round(255 * Math.min(1, Math.max(0, x <= 0.0031308 ? 12.92 * x : 1.055 * x ** (1 / 2.4) - 0.055))));
}

/**
 * Colours of so many groups, [red, green, blue] each; those beyond `MOST` share one grey.
 * Hues go once around; of more than eight groups every other one is darker.
 * @param {number} count
 */
export function palette(count) {
  const dark = isDark();
  const own = Math.min(count, MOST);
  const colours = Array.from({ length: own }, (_, i) => {
    const second = own > 8 && i % 2;
    return rgb((dark ? 0.78 : 0.64) - (second ? 0.17 : 0), second ? 0.13 : 0.16, (2 * Math.PI * i) / own + 0.5);
  });
  // neighbours on the wheel should not be neighbours in the list: take steps of about 2/5 of the way round
  const step = [7, 5, 3, 2, 1].find((some) => own < 2 * some || gcd(some, own) === 1) ?? 1;
  const mixed = Array.from({ length: own }, (_, i) => colours[(i * (own > 4 ? step : 1)) % own]);
  const all = new Set(mixed).size === own ? mixed : colours;
  const rest = other();
  return Array.from({ length: count }, (_, i) => all[i] ?? rest);
}

const gcd = (a, b) => (b ? gcd(b, a % b) : a);

/** The colour of all that has none. */
export const other = () => OTHER[isDark() ? "dark" : "light"];

/** From always wrong (0) over half to always right (1), also apart for the colour-blind. @param {number} share */
export function rightness(share) {
  const [wrong, right] = isDark() ? [rgb(0.75, 0.17, 0.9), rgb(0.62, 0.1, 4.3)] : [rgb(0.62, 0.2, 0.7), rgb(0.6, 0.1, 4.3)];
  return wrong.map((from, i) => Math.round(from + share * (right[i] - from)));
}

/** As CSS has it. @param {number[]} colour */
export const css = ([r, g, b]) => `rgb(${r} ${g} ${b})`;
