"""The report in a real browser: the 3D scene is drawn, the orbit turns it, the slider moves time, nothing goes wrong.

Opened from disk in headless Chromium with software rendering; the page must not ask the network for anything.
"""

import shutil

import pytest
import viewer_scenes as made

from traceworld.viewer.report import write_report

pytest.importorskip("plotly", reason="the viewer extra is not installed")
pytest.importorskip("selenium", reason="selenium is not installed")
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromium-driver are not installed (apt)"),
]

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-dev-shm-usage",
    "--window-size=1300,1000",
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_report(tmp_path_factory.mktemp("report") / "report.html", made.report())


@pytest.fixture
def page(browser, file):
    browser.get(file.as_uri())
    WebDriverWait(browser, 60).until(
        lambda d: d.execute_script("return document.getElementById('scene').dataset.ready") == "yes"
    )
    yield browser
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not errors, errors


def traces(page):
    """What plotly draws now: name → number of points drawn, sum of x, visible."""
    return page.execute_script("""
      return Object.fromEntries(document.getElementById('scene')._fullData.map((t) => {
        const known = Array.from(t.x || []).filter((v) => v !== null && !Number.isNaN(v));
        return [t.name, {count: known.length, sum: known.reduce((a, b) => a + b, 0), visible: t.visible}];
      }));""")


def wait_for(page, condition):
    WebDriverWait(page, 20).until(lambda _: condition())


def test_the_scene_is_there_and_draws_something(page):
    assert page.find_elements(By.CSS_SELECTOR, "#scene .gl-container canvas")
    drawn = traces(page)
    assert drawn["cloud"]["count"] > 400
    assert drawn["extracted points"]["count"] == 6
    assert drawn["predicted samples"]["count"] == 3 * 6 * 17 - 8  # one sample ends half way
    assert page.execute_script("""
      const gd = document.getElementById('scene');
      return Plotly.toImage(gd, {format: 'png', width: 300, height: 200}).then((url) => new Promise((done) => {
        const image = new Image();
        image.onload = () => {
          const c = document.createElement('canvas'); c.width = 300; c.height = 200;
          const g = c.getContext('2d'); g.drawImage(image, 0, 0);
          done(new Set(new Uint32Array(g.getImageData(0, 0, 300, 200).data.buffer)).size);
        };
        image.src = url;
      }));""") > 20, "the picture of the scene is empty"  # fmt: skip


def test_dragging_orbits_the_camera(page):
    def eye():
        return page.execute_script("""
          const c = document.getElementById('scene')._fullLayout.scene._scene.getCamera(); return [c.eye.x, c.eye.y, c.eye.z]""")

    page.execute_script("""
      window.turned = 0;
      document.getElementById('scene').on('plotly_relayout', (e) => { if ('scene.camera' in e) window.turned++; });""")
    before = eye()
    scene = page.find_element(By.ID, "scene")
    ActionChains(page).move_to_element_with_offset(scene, -60, 40).click_and_hold().move_by_offset(
        60, 20
    ).move_by_offset(60, 20).release().perform()
    wait_for(page, lambda: max(abs(a - b) for a, b in zip(eye(), before, strict=True)) > 0.05)
    wait_for(page, lambda: page.execute_script("return window.turned") > 0)
    turned = eye()
    page.find_element(By.ID, "time").send_keys(Keys.ARROW_RIGHT)  # moving in time keeps the view
    wait_for(page, lambda: page.find_element(By.ID, "time").get_attribute("value") == "1")
    assert eye() == pytest.approx(turned, abs=1e-6)
    page.find_element(By.CSS_SELECTOR, "[data-eye=above]").click()
    wait_for(page, lambda: abs(eye()[2] - turned[2]) > 0.1)


def test_the_slider_moves_time_by_keyboard_and_mouse(page):
    start = traces(page)
    slider, clock = page.find_element(By.ID, "time"), page.find_element(By.ID, "clock")
    assert "frame 0 of 39" in clock.text
    for _ in range(3):
        slider.send_keys(Keys.ARROW_RIGHT)
    wait_for(page, lambda: traces(page)["extracted points"]["sum"] > start["extracted points"]["sum"] + 0.1)
    assert "frame 3 of 39" in clock.text
    assert traces(page)["extracted tails"]["count"] == 6 * 4
    picture = page.find_element(By.ID, "film").get_attribute("src")
    ActionChains(page).click_and_hold(slider).move_by_offset(200, 0).release().perform()
    wait_for(page, lambda: int(slider.get_attribute("value")) > 20)
    wait_for(page, lambda: traces(page)["hidden points"]["count"] == 1)  # one point hides in the second half
    wait_for(page, lambda: traces(page)["extracted points"]["count"] == 5)
    assert page.find_element(By.ID, "film").get_attribute("src") != picture
    slider.send_keys(Keys.HOME)
    wait_for(page, lambda: traces(page)["extracted points"] == start["extracted points"])


def test_play_runs_through_the_clip_and_stops(page):
    play = page.find_element(By.ID, "play")
    play.click()
    wait_for(page, lambda: "frame 39 of 39" in page.find_element(By.ID, "clock").text)
    wait_for(page, lambda: "Play" in play.text)


def test_layers_predictions_pictures_and_theme_can_be_switched(page):
    assert traces(page)["still points"]["visible"] is False
    page.find_element(By.CSS_SELECTOR, "[data-layer=still]").click()
    wait_for(page, lambda: traces(page)["still points"]["visible"] is True)
    assert traces(page)["still points"]["count"] == 8
    page.find_element(By.CSS_SELECTOR, "[data-layer=cloud]").click()
    wait_for(page, lambda: traces(page)["cloud"]["visible"] is False)
    Select(page.find_element(By.ID, "forecast")).select_by_index(1)
    wait_for(page, lambda: "frame 20 of" in page.find_element(By.ID, "clock").text)
    drawn = page.find_element(By.ID, "film").get_attribute("src")
    page.find_element(By.ID, "film-raw").click()
    assert page.find_element(By.ID, "film").get_attribute("src") != drawn
    before = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    page.find_element(By.ID, "theme").click()
    assert page.execute_script("return getComputedStyle(document.body).backgroundColor") != before


def test_nothing_is_asked_of_the_network(page):
    asked = page.execute_script("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert not [name for name in asked if not name.startswith(("data:", "blob:"))]
