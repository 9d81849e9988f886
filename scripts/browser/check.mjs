// Checks reports in headless Chromium: no error and no request, everything there without a script, the filter, every control by
// keyboard, values under the pointer and the arrow keys, axe in light and dark, a phone's width, and paper.
// Usage: CHROMIUM=PATH KVBENCH_TOOLS=DIR [SHOTS=DIR] node check.mjs REPORT.html...
import { createRequire } from 'node:module';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const require = createRequire(path.join(process.env.KVBENCH_TOOLS, 'package.json'));
const { chromium } = require('playwright-core');
const axe = require.resolve('axe-core/axe.min.js');
const wide = { width: 1280, height: 900 };
const phone = { width: 390, height: 844 };

let failures = 0;
const expect = (is, what) => {
  if (is) return;
  failures += 1;
  console.error(`   FAILED: ${what}`);
};

/** A page of its own with what it said and asked for. */
async function open(browser, report, options = {}, hash = '') {
  const context = await browser.newContext({ viewport: wide, ...options });
  const page = await context.newPage();
  const heard = { errors: [], requests: [] };
  page.on('console', (message) => ['error', 'warning'].includes(message.type()) && heard.errors.push(message.text()));
  page.on('pageerror', (error) => heard.errors.push(String(error)));
  const address = pathToFileURL(report).href;
  page.on('request', (request) => request.url().split('#')[0] !== address && heard.requests.push(request.url()));
  await page.goto(address + hash);
  return { page, heard, close: () => context.close() };
}

const shoot = async (page, report, look, fullPage = true) => {
  if (!process.env.SHOTS) return;
  const name = `${path.basename(path.dirname(report))}-${look}.png`;
  await page.screenshot({ path: path.join(process.env.SHOTS, name), fullPage });
};

/** How many parts of a name can be seen; a part in a closed <details> counts by whether it is hidden itself. */
const shownOf = (page, owner) =>
  page.evaluate((owner) => [...document.querySelectorAll(`[data-m="${owner}"]`)].filter((part) => getComputedStyle(part).display !== 'none').length, owner);

async function quiet(browser, report) {
  for (const colorScheme of ['light', 'dark']) {
    const { page, heard, close } = await open(browser, report, { colorScheme });
    await shoot(page, report, colorScheme);
    await page.evaluate(() => document.querySelectorAll('details').forEach((one) => (one.open = true)));
    await page.addScriptTag({ path: axe }).catch(() => page.evaluate(require('node:fs').readFileSync(axe, 'utf8')));
    const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ['violations'] }));
    for (const one of violations) {
      expect(false, `axe, ${colorScheme}: ${one.id}: ${one.help} (${one.nodes.length}): ${one.nodes[0].html.slice(0, 160)} ${one.nodes[0].failureSummary}`);
    }
    expect(heard.errors.length === 0, `${colorScheme}: the console says ${heard.errors.join(' | ')}`);
    expect(heard.requests.length === 0, `${colorScheme}: the page asks for ${heard.requests.join(', ')}`);
    await close();
  }
}

async function filter(browser, report) {
  const { page, heard, close } = await open(browser, report);
  const boxes = page.locator('#filter input');
  const n = await boxes.count();
  if (n === 0) {
    console.log('   one method: no filter');
    return close();
  }
  expect(n > 1, 'a filter of one');
  const owners = [...Array(n).keys()];
  const before = await Promise.all(owners.map((owner) => shownOf(page, owner)));
  expect(before.some((count) => count > 0), 'nothing belongs to any name');
  for (const owner of owners) {
    await boxes.nth(owner).uncheck();
    const after = await Promise.all(owners.map((one) => shownOf(page, one)));
    expect(after[owner] === 0, `${after[owner]} parts of hidden name ${owner} can be seen`);
    expect(owners.every((one) => one === owner || after[one] === before[one]), `hiding ${owner} changes another name: ${before} to ${after}`);
    const name = await boxes.nth(owner).getAttribute('data-name');
    expect((await page.evaluate(() => location.hash)) === `#hide=${encodeURIComponent(name)}`, `the address does not say that ${name} is hidden`);
    expect((await page.locator('#filtered').textContent()).includes(name), `the page does not say that ${name} is hidden`);
    await boxes.nth(owner).check();
  }
  expect((await page.evaluate(() => location.hash)) === '', 'the address keeps a filter that is off');
  await page.getByRole('button', { name: 'Hide all' }).click();
  const none = await Promise.all(owners.map((owner) => shownOf(page, owner)));
  expect(none.every((count) => count === 0), `"Hide all" leaves ${none}`);
  await page.reload();
  expect((await page.locator('#filter input:checked').count()) === 0, 'the filter is lost when the page is loaded again');
  await page.getByRole('button', { name: 'Show all' }).click();
  const all = await Promise.all(owners.map((owner) => shownOf(page, owner)));
  expect(all.join() === before.join(), `"Show all" shows ${all} of ${before}`);
  expect(heard.errors.length === 0, `the filter: the console says ${heard.errors.join(' | ')}`);
  console.log(`   filter: ${n} names with ${before.join(', ')} parts`);
  await close();
}

async function keyboard(browser, report) {
  const { page, close } = await open(browser, report);
  const wanted = await page.evaluate(() => {
    const all = [...document.querySelectorAll('a[href], button, input, summary, [tabindex="0"]')];
    const seen = all.filter((one) => one.checkVisibility());
    seen.forEach((one, n) => one.setAttribute('data-stop', n));
    return seen.length;
  });
  const reached = new Set();
  let bare = 0;
  for (let n = 0; n < wanted + 5; n += 1) {
    await page.keyboard.press('Tab');
    const at = await page.evaluate(() => {
      const one = document.activeElement;
      const style = getComputedStyle(one);
      return { stop: one.getAttribute('data-stop'), outlined: style.outlineStyle !== 'none' && style.outlineWidth !== '0px' };
    });
    if (at.stop !== null) reached.add(at.stop);
    if (at.stop !== null && !at.outlined) bare += 1;
  }
  expect(reached.size === wanted, `the keyboard reaches ${reached.size} of ${wanted} controls`);
  expect(bare === 0, `${bare} controls do not show that they have the focus`);
  const boxes = page.locator('#filter input');
  if ((await boxes.count()) > 0) {
    await boxes.first().focus();
    await page.keyboard.press('Space');
    expect(!(await boxes.first().isChecked()), 'the space bar does not turn a checkbox');
    await page.keyboard.press('Space');
  }
  console.log(`   keyboard: ${reached.size} controls`);
  await close();
}

async function values(browser, report) {
  const { page, close } = await open(browser, report);
  const plots = page.locator('.plot');
  for (let n = 0; n < (await plots.count()); n += 1) {
    const plot = plots.nth(n);
    const title = await plot.getAttribute('aria-label');
    if ((await plot.locator('.hits circle').count()) === 0) continue;
    await plot.focus();
    await page.keyboard.press('ArrowRight');
    const first = await page.locator('#tip').textContent();
    expect((await page.locator('#tip').isVisible()) && /\d/.test(first), `${title}: the arrow keys say "${first}"`);
    await page.keyboard.press('End');
    const last = await page.locator('#tip').textContent();
    expect(last !== first || (await plot.locator('.hits circle').count()) === 1, `${title}: End does not move`);
    await page.keyboard.press('Escape');
    expect(!(await page.locator('#tip').isVisible()), `${title}: Escape does not hide the value`);
    const box = await plot.locator('.hits circle').first().boundingBox();
    await page.mouse.move(box.x + box.width / 2, box.y + box.height / 2);
    expect((await page.locator('#tip').isVisible()) && /\d/.test(await page.locator('#tip').textContent()), `${title}: the pointer finds no value`);
    await shoot(page, report, `value-${n}`, false);
    const rows = await plot.locator('xpath=..').locator('details tbody tr').count();
    expect(rows === (await plot.locator('.hits circle').count()), `${title}: the table has ${rows} values`);
  }
  console.log(`   values: ${await plots.count()} figures`);
  await close();
}

async function narrow(browser, report) {
  const { page, close } = await open(browser, report, { viewport: phone, isMobile: true, hasTouch: true, deviceScaleFactor: 2 });
  const widths = await page.evaluate(() => [document.scrollingElement.scrollWidth, document.documentElement.clientWidth]);
  expect(widths[0] <= widths[1], `a phone of ${widths[1]} px has to scroll to ${widths[0]} px`);
  const smallest = await page.evaluate(() => {
    const sizes = [...document.querySelectorAll('.plot text')].map((text) => {
      const scale = text.ownerSVGElement.getScreenCTM().a;
      return parseFloat(text.getAttribute('font-size')) * scale;
    });
    return sizes.length ? Math.min(...sizes) : null;
  });
  expect(smallest === null || smallest >= 7.5, `a phone shows letters of ${smallest} px in figures`);
  await shoot(page, report, 'phone');
  const first = page.locator('.hits circle').first();
  if ((await first.count()) > 0) {
    await first.scrollIntoViewIfNeeded();
    const box = await first.boundingBox();
    await page.touchscreen.tap(box.x + box.width / 2, box.y + box.height / 2);
    expect(await page.locator('#tip').isVisible(), 'a finger finds no value');
    const wider = await page.evaluate(() => document.scrollingElement.scrollWidth - document.documentElement.clientWidth);
    expect(wider <= 0, `the value makes the page ${wider} px wider than the phone`);
  }
  await close();
}

async function paper(browser, report) {
  // 273 mm at 96 dpi: A4 on its side without its margins.
  const { page, close } = await open(browser, report, { colorScheme: 'dark', viewport: { width: 1032, height: 703 } });
  await page.emulateMedia({ media: 'print', colorScheme: 'dark' });
  const look = await page.evaluate(() => ({
    ground: getComputedStyle(document.body).backgroundColor,
    ink: getComputedStyle(document.body).color,
    controls: [...document.querySelectorAll('nav, form, summary, #tip')].filter((one) => one.checkVisibility()).length,
    figures: [...document.querySelectorAll('.plot svg')].every((one) => one.checkVisibility() && one.getBoundingClientRect().width <= 1032),
    wider: document.scrollingElement.scrollWidth - document.documentElement.clientWidth,
  }));
  expect(look.ground === 'rgb(255, 255, 255)' && look.ink === 'rgb(0, 0, 0)', `paper is ${look.ground} with ${look.ink}`);
  expect(look.controls === 0, `${look.controls} controls are printed`);
  expect(look.figures, 'a figure is not printed, or wider than the paper');
  expect(look.wider <= 0, `what is printed is ${look.wider} px wider than the paper`);
  if (process.env.SHOTS) {
    const name = `${path.basename(path.dirname(report))}-print.pdf`;
    await page.pdf({ path: path.join(process.env.SHOTS, name), preferCSSPageSize: true });
  }
  await close();
}

async function scriptless(browser, report) {
  const { page, heard, close } = await open(browser, report, { javaScriptEnabled: false }, '#hide=fp16');
  const seen = await page.evaluate(() => ({
    hidden: [...document.querySelectorAll('[data-m]')].filter((one) => getComputedStyle(one).display === 'none').length,
    filter: document.querySelector('#filter')?.checkVisibility() ?? false,
    told: document.querySelectorAll('.hits title').length,
    circles: document.querySelectorAll('.hits circle').length,
  }));
  expect(seen.hidden === 0, `without a script ${seen.hidden} parts are hidden`);
  expect(!seen.filter, 'without a script the filter is shown, and does nothing');
  expect(seen.told === seen.circles, `without a script ${seen.told} of ${seen.circles} marks say their value`);
  expect(heard.requests.length === 0, `without a script the page asks for ${heard.requests.join(', ')}`);
  await close();
}

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'] });
try {
  for (const report of process.argv.slice(2)) {
    const start = Date.now();
    console.log(`-- ${report}`);
    for (const check of [quiet, filter, keyboard, values, narrow, paper, scriptless]) {
      try {
        await check(browser, report);
      } catch (error) {
        expect(false, `${check.name}: ${error.message}`);
      }
    }
    console.log(`   took ${((Date.now() - start) / 1000).toFixed(1)} s`);
  }
} finally {
  await browser.close();
}
console.log(failures === 0 ? 'browser test: passed' : `browser test: ${failures} failed`);
process.exitCode = failures === 0 ? 0 : 1;
