"""Two guides to transfer learning, followed with the course's net, weights and pixels: what bench.photos compares.

PyTorch: "Transfer learning for computer vision": random crops and mirroring, SGD with momentum, a tenth of the rate
for the last third of the epochs, the weights of the best epoch. Keras 3: "Transfer learning & fine-tuning": mirrored
and turned a little, Adam for a new head over the frozen body, then Adam at 1e-5 for all, BatchNorm frozen throughout.
Each function takes a folder with train/ and test/ and gives accuracy on a fifth of train/ and on test/."""
import copy, os

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision import transforms as T
from torchvision.datasets import ImageFolder
from sklearn.model_selection import train_test_split
from finetune_course.backbone import create_pretrained, pixel_stats, replace_head_

def parts(folder, px, seed, moved, still, arch):
    "Training, validation and test images; the first moved at random"
    normal = T.Normalize(*pixel_stats(arch))
    sets = [ImageFolder(folder/part, T.Compose([*tfms, T.ToTensor(), normal]))
            for part, tfms in (('train', moved), ('train', still), ('test', still))]
    train, valid = train_test_split(range(len(sets[0])), test_size=.2, stratify=sets[0].targets, random_state=seed)
    return Subset(sets[0], train), Subset(sets[1], valid), sets[2]

def accuracy(net, dl):
    net.eval()
    with torch.no_grad(): return float(torch.cat([net(x).argmax(1) == y for x, y in dl]).float().mean())

def pytorch(folder, arch, px, epochs, lr, seed=0, bs=32):
    torch.manual_seed(seed)
    crop = [T.RandomResizedCrop(px, (.35, 1)), T.RandomHorizontalFlip()]
    train, valid, test = parts(folder, px, seed, crop, [T.Resize(px), T.CenterCrop(px)], arch)
    loaders = [DataLoader(ds, bs, shuffle=ds is train, num_workers=2, persistent_workers=True)
               for ds in (train, valid, test)]
    net = replace_head_(create_pretrained(arch), len(test.classes))
    opt = torch.optim.SGD(net.parameters(), lr, momentum=.9)
    schedule, best = torch.optim.lr_scheduler.StepLR(opt, max(1, round(epochs*2/3)), .1), (-1., None)
    for _ in range(epochs):
        net.train()
        for x, y in loaders[0]:
            opt.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            opt.step()
        schedule.step()
        if (now := accuracy(net, loaders[1])) > best[0]: best = now, copy.deepcopy(net.state_dict())
    net.load_state_dict(best[1])
    return dict(valid=best[0], accuracy=accuracy(net, loaders[2]), n=len(test))

def keras(folder, arch, px, epochs, lr, seed=0, bs=32):
    os.environ['KERAS_BACKEND'] = 'torch'
    import keras
    keras.utils.set_random_seed(seed)
    moved = [T.Resize(px), T.CenterCrop(px), T.RandomHorizontalFlip(), T.RandomRotation(36)]
    train, valid, test = parts(folder, px, seed, moved, moved[:2], arch)
    loaders = [DataLoader(ds, bs, shuffle=ds is train) for ds in (train, valid, test)]
    net = create_pretrained(arch)
    net.reset_classifier(0)
    body = keras.layers.TorchModuleWrapper(net.eval(), output_shape=(None, net.num_features))
    inputs = keras.Input((3, px, px))
    x = keras.layers.Dropout(.2)(body(inputs, training=False))
    model = keras.Model(inputs, keras.layers.Dense(len(test.classes))(x))
    def fit(trainable, rate, n):
        body.trainable = trainable
        model.compile(keras.optimizers.Adam(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                      metrics=['accuracy'])
        if n: model.fit(loaders[0], epochs=n, verbose=0)
    fit(False, lr, epochs - epochs//2)
    fit(True, 1e-5, epochs//2)
    found = [model.evaluate(dl, verbose=0, return_dict=True)['accuracy'] for dl in loaders[1:]]
    return dict(valid=found[0], accuracy=found[1], n=len(test))
