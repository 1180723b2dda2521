"""Pictures as people hand them in, made by a seeded generator: digits on paper under a lamp, drawings as a mouse
makes them, and what is no digit. Arrays in and out: an image or a picture is uint8, H×W or H×W×3."""
import logging
from functools import cache, partial
from itertools import pairwise

import cv2, numpy as np
from matplotlib.font_manager import get_font_names, findfont
from PIL import Image, ImageDraw, ImageFont

# ---- ink

def smooth_mask(image, side):
    "A small grey image as a large mask with firm edges, float 0…1"
    big = cv2.resize(image.astype(np.float32)/255, (side, side), interpolation=cv2.INTER_CUBIC)
    big = cv2.GaussianBlur(big, (0, 0), side/90)
    return np.clip((big - .5)*side/28 + .5, 0, 1)

def with_pen(mask, change):
    "The strokes `change` times as wide as now, more or less"
    inside = cv2.distanceTransform((mask > .5).astype(np.uint8), cv2.DIST_L2, 5)
    outside = cv2.distanceTransform((mask <= .5).astype(np.uint8), cv2.DIST_L2, 5)
    width = 4*inside[inside > 0].mean() if inside.any() else 0
    return np.clip(inside - outside + (change - 1)*width/2 + .5, 0, 1)

def thinned(mask):
    "Its skeleton, one pixel wide (Zhang and Suen, 1984)"
    x = np.pad(mask, 1).astype(np.uint8)
    while True:
        before = x.copy()
        for first in True, False:
            n, ne, e, se, s, sw, w, nw = [np.roll(x, shift, (0, 1)) for shift in
                ((1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1))]
            ring = [n, ne, e, se, s, sw, w, nw, n]
            count = sum(ring[:-1], np.zeros_like(x))
            rises = sum((a == 0) & (b == 1) for a, b in pairwise(ring))
            ends = (n*e*s == 0) & (e*s*w == 0) if first else (n*e*w == 0) & (n*s*w == 0)
            x[(count >= 2) & (count <= 6) & (rises == 1) & ends] = 0
        if (x == before).all(): return x[1:-1, 1:-1]

# ---- photographs of paper

pens = dict(black=(35, 33, 38), blue=(40, 52, 140), red=(165, 35, 40), green=(30, 105, 60), pencil=(95, 95, 98))

def paper(rng, h, w):
    "Plain, ruled or squared, with its own tint and grain; float H×W×3, 0…255"
    x = np.ones((h, w, 3), np.float32)*(rng.uniform(205, 250) + rng.uniform(-10, 6, 3))
    kind, gap = rng.choice(['plain', 'ruled', 'squared']), int(rng.uniform(.06, .14)*h)
    colour, thick = x[0, 0] - rng.uniform(15, 60)*np.array([1.3, 1, .5]), max(1, round(h/500))
    start = int(rng.integers(gap))
    for top in range(start, h, gap) if kind != 'plain' else (): x[top:top+thick] = colour
    for left in range(start, w, gap) if kind == 'squared' else (): x[:, left:left+thick] = colour
    grain = cv2.resize(rng.normal(0, 1, (h//8, w//8)).astype(np.float32), (w, h), interpolation=cv2.INTER_CUBIC)
    return x + (grain*rng.uniform(0, 4))[..., None]

def lamplight(rng, h, w):
    "How bright each place is, H×W: a gradient, a lamp, and now and then a shadow with a soft or hard edge"
    y, x = np.mgrid[-1:1:h*1j, -1:1:w*1j].astype(np.float32)
    angle = rng.uniform(0, 2*np.pi)
    light = 1 - rng.uniform(0, .25)*(1 + x*np.cos(angle) + y*np.sin(angle))/2
    cx, cy = rng.uniform(-1, 1, 2)
    light *= 1 - rng.uniform(0, .3)*np.minimum(1, ((x-cx)**2 + (y-cy)**2)/4)
    if rng.random() < .5:
        angle, at, soft = rng.uniform(0, 2*np.pi), rng.uniform(-.6, .6), rng.uniform(.01, .3)
        light *= 1 - rng.uniform(.15, .55)/(1 + np.exp(-(x*np.cos(angle) + y*np.sin(angle) - at)/soft))
    return light

def placed(rng, mask, h, w):
    "The mask turned, in perspective, somewhere in a picture of h×w, at 10 to 60 % of its height"
    side = mask.shape[0]
    scale = np.exp(rng.uniform(np.log(.14), np.log(.75)))*min(h, w)   # of all 28 pixels, of which 20 are digit
    a = np.deg2rad(rng.uniform(-15, 15))
    turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])/2
    moved = corners*(1 + rng.uniform(-.06, .06, (4, 2)))@turn.T*scale
    room = np.array([w, h])/2 - .45*scale
    moved += np.array([w, h])/2 + rng.uniform(-1, 1, 2)*np.maximum(0, room - 8)
    matrix = cv2.getPerspectiveTransform(((corners + .5)*side).astype(np.float32), moved.astype(np.float32))
    return cv2.warpPerspective(mask, matrix, (w, h), flags=cv2.INTER_AREA)

def photographed(rng, mask, h=None):
    "A photograph of a mask, written with some pen on some paper; None: of blank paper"
    h = h or int(rng.choice([480, 720, 960, 1280]))
    w = int(h*rng.choice([.75, 1, 1.33]))
    x = paper(rng, h, w)
    if mask is not None:
        ink = np.array(pens[str(rng.choice(list(pens)))], np.float32) + rng.uniform(-15, 15, 3)
        strength = placed(rng, mask, h, w)*rng.uniform(.8, 1)
        x += strength[..., None]*(ink - x)
    x *= lamplight(rng, h, w)[..., None]
    x = cv2.GaussianBlur(x, (0, 0), rng.uniform(.3, h/400))
    x += rng.normal(0, rng.uniform(0, 5), x.shape)
    return np.clip(x, 0, 255).astype(np.uint8)

def photographed_digit(rng, image): return photographed(rng, with_pen(smooth_mask(image, 280), rng.uniform(.55, 1.5)))

def drawn(rng, mask):
    "Like a drawing with the mouse, 280×280: the mask's skeleton through few points, in an even stroke"
    lines, _ = cv2.findContours(thinned(mask), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    side, ink, ground = mask.shape[0], *((0, 255) if rng.random() < .5 else (255, 0))
    x, thick = np.full((280, 280), ground, np.uint8), int(rng.integers(8, 25))
    scale, shift = 280/side*rng.uniform(.6, .95), rng.uniform(-15, 15, 2)
    for line in lines:
        points = cv2.approxPolyDP(line, side/rng.uniform(25, 40), True)[:, 0]
        points = ((points - side/2)*scale + 140 + shift).astype(np.int32)
        cv2.polylines(x, [points], True, ink, thick, cv2.LINE_AA if rng.random() < .5 else cv2.LINE_8)
    return x

def drawn_digit(rng, image): return drawn(rng, smooth_mask(image, 84) > .2)

# ---- no digits

letters = 'ABCDEFGHJKLMNPQRTUVWXYZabcdefhijkmnprtuvwxyz'   # without those that are a digit as well: I O S l o g q s
signs = '!?&%@#$*+=<>~^[]"§€'   # without those that are a 1 as well: / \ | ( )

@cache
def fonts():
    "Text fonts found here; matplotlib brings DejaVu"
    logging.getLogger('matplotlib.font_manager').setLevel(logging.ERROR)   # weights that a font lacks
    def legible(name): return not any(word in name for word in ('STIX', 'cm', 'Last', 'Emoji', 'Display', 'Symbol'))
    return [findfont(name) for name in sorted(get_font_names()) if legible(name)]

def glyph(rng, text, side=280):
    "A letter as a mask"
    im = Image.new('L', (side, side))
    font = ImageFont.truetype(str(rng.choice(fonts())), int(side*.7))
    ImageDraw.Draw(im).text((side/2, side/2), text, 255, font, 'mm')
    return np.asarray(im, np.float32)/255

def scribble(rng, side=280):
    "A curve that crosses itself some times, as a mask"
    points = rng.uniform(.2, .8, (int(rng.integers(6, 14)), 2))*side
    t = np.linspace(0, len(points) - 1, 200)
    curve = np.stack([np.interp(t, np.arange(len(points)), p) for p in points.T], 1)
    for _ in range(3): curve[1:-1] = (curve[:-2] + 2*curve[1:-1] + curve[2:])/4
    x = np.zeros((side, side), np.uint8)
    cv2.polylines(x, [curve.astype(np.int32)], False, 255, int(rng.integers(6, 18)), cv2.LINE_AA)
    return x.astype(np.float32)/255

def texture(rng, side=320):
    "Waves, checks or clouds, in colour or grey"
    y, x = np.mgrid[0:1:side*1j, 0:1:side*1j]
    u = x*rng.uniform(3, 30) + y*rng.uniform(3, 30)
    pattern = [np.sin(2*np.pi*u), np.sign(np.sin(2*np.pi*u)*np.sin(2*np.pi*(x - y)*rng.uniform(2, 15))),
               cv2.resize(rng.normal(0, 1, (9, 9)), (side, side), interpolation=cv2.INTER_CUBIC)][rng.integers(3)]
    return np.clip(128 + rng.uniform(30, 110, 3)*pattern[..., None], 0, 255).astype(np.uint8)

def noise(rng, side=200): return rng.integers(0, 256, (side, side, 3), dtype=np.uint8)

def either(rng, mask): return photographed(rng, mask) if rng.random() < .5 else drawn(rng, mask > .5)

no_digits = {   # kind → a picture from a generator of random numbers
    'letter': lambda rng: either(rng, glyph(rng, rng.choice([*letters]))),
    'sign': lambda rng: either(rng, glyph(rng, rng.choice([*signs]))),
    'scribble': lambda rng: either(rng, scribble(rng)),
    'texture': texture,
    'blank paper': partial(photographed, mask=None),
    'noise': noise,
}

def encoded(rng, picture):
    "The picture as a file's bytes: PNG, or JPEG of quality 30 to 95"
    bgr = picture[..., ::-1] if picture.ndim == 3 else picture
    kind, options = '.png', []
    if rng.random() > .3: kind, options = '.jpg', [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 96))]
    return kind, cv2.imencode(kind, bgr, options)[1].tobytes()
