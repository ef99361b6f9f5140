// SPDX-License-Identifier: GPL-2.0-only
/*
 * B+tree with optimistic lock coupling
 *
 * A function that reads a node must expect that the page is being changed or evicted at
 * the same time. It loads each field only once and checks the value before using it as
 * an offset. The result is valid only if the bm_read_check() of the caller succeeds.
 */
#include <errno.h>
#include <string.h>

#include "btree.h"
#include "bufmgr.h"

#define META	0	/* the page that holds the page number of the root */

struct meta {
	u64 root;
};

/*
 * Locates an entry of a node. The key is at the offset, and the payload follows it. Entries
 * are allocated from the end of the page downwards.
 */
struct slot {
	alignas(8) u16 offset;
	u16 key_len, len;	/* lengths of the key and of the payload */
};

/*
 * In an inner node, the payload of a slot is the page number of a child, whose keys are
 * less than or equal to the key of the slot. In a leaf, the payload is a struct value.
 */
struct node {
	u16 leaf;
	u16 count;
	u16 heap;		/* offset of the lowest entry */
	u64 upper;		/* inner node: child for keys above those of all slots */
	struct slot slots[];	/* in ascending order of their keys */
};

struct value {
	u64 size;
	u64 extent;		/* first page of the data, or 0 if the data follows here */
};

/* Pointers to the key and the payload of a slot within the page */
struct entry {
	char *key, *payload;
	size_t key_len, len;
};

/* A node and its parent on the way down the tree, with their versions */
struct path {
	u64 pid, version;
	u64 parent, parent_version;
};

#define SLOTS_MAX	((bm.page_size - sizeof(struct node)) / sizeof(struct slot))
#define SEPARATOR_MAX	(sizeof(struct slot) + BTREE_KEY_MAX + sizeof(u64))

#define load(field)	__atomic_load_n(&(field), __ATOMIC_RELAXED)

static struct entry get_entry(struct node *node, unsigned int i)
{
	struct slot slot;
	char *key;

	__atomic_load(&node->slots[i], &slot, __ATOMIC_RELAXED);
	if ((size_t)slot.offset + slot.key_len + slot.len > bm.page_size)
		bm_restart();
	key = (char *)node + slot.offset;
	return (struct entry) { key, key + slot.key_len, slot.key_len, slot.len };
}

static unsigned int get_count(struct node *node)
{
	unsigned int count = load(node->count);

	if (count > SLOTS_MAX)
		bm_restart();
	return count;
}

static bool has_space(struct node *node, size_t need)
{
	return sizeof(*node) + get_count(node) * sizeof(struct slot) + need <= load(node->heap);
}

/* Find the first slot whose key is greater than or equal to the given key */
static unsigned int search(struct node *node, const void *key, size_t key_len, bool *found)
{
	unsigned int low = 0, high = get_count(node), mid;
	struct entry entry;
	int order;

	*found = false;
	while (low < high) {
		mid = (low + high) / 2;
		entry = get_entry(node, mid);
		order = memcmp(entry.key, key, entry.key_len < key_len ? entry.key_len : key_len);
		if (!order)
			order = (int)entry.key_len - (int)key_len;
		if (order < 0)
			low = mid + 1;
		else
			high = mid;
		*found |= !order;
	}
	return low;
}

static u64 get_child(struct node *node, unsigned int i)
{
	u64 child = load(node->upper);

	if (i < get_count(node))
		memcpy(&child, get_entry(node, i).payload, sizeof(child));
	return child;
}

/*
 * Walk down to the leaf for a key. With need, stop at an inner node that has no room for
 * another separator: it must be split first, because a split of a child would add a
 * separator to it.
 */
static struct node *descend(struct path *path, const void *key, size_t key_len, bool need)
{
	struct node *node;
	bool found;
	u64 child;

	path->pid = META;
	path->version = bm_read_begin(META);
	child = load(((struct meta *)bm_page(META))->root);
	for (;;) {
		/* The page number of the child is valid only if its source is unchanged */
		bm_read_check(path->pid, path->version);
		path->parent = path->pid;
		path->parent_version = path->version;
		path->pid = child;
		path->version = bm_read_begin(child);
		/* Check again: the child may have been split before its version was read */
		bm_read_check(path->parent, path->parent_version);

		node = bm_page(path->pid);
		if (load(node->leaf) || (need && !has_space(node, SEPARATOR_MAX)))
			return node;
		child = get_child(node, search(node, key, key_len, &found));
	}
}

/* Changes to nodes. The caller must hold the lock of the node. */

static struct node *new_node(u64 pid, bool leaf)
{
	struct node *node = bm_page(pid);

	memset(node, 0, bm.page_size);
	node->leaf = leaf;
	node->heap = bm.page_size;
	return node;
}

static void insert_entry(struct node *node, unsigned int i, const struct entry *entry)
{
	struct slot *slot = &node->slots[i];

	memmove(slot + 1, slot, (node->count - i) * sizeof(*slot));
	node->count++;
	node->heap -= entry->key_len + entry->len;
	*slot = (struct slot) { node->heap, entry->key_len, entry->len };
	memcpy((char *)node + node->heap, entry->key, entry->key_len);
	memcpy((char *)node + node->heap + entry->key_len, entry->payload, entry->len);
}

static void copy_entries(struct node *to, struct node *from, unsigned int i, unsigned int end)
{
	struct entry entry;

	for (; i < end; i++) {
		entry = get_entry(from, i);
		insert_entry(to, to->count, &entry);
	}
}

/* Move the upper half of a node to a new node. The parent must have room for a key. */
static void split(const struct path *path)
{
	alignas(8) char copy[PAGE_SIZE_MAX];
	struct node *old = (struct node *)copy, *left, *right, *parent = bm_page(path->parent);
	u64 left_pid = path->pid, right_pid, root_pid = 0;
	struct entry middle;
	unsigned int mid, i;
	bool found;

	if (!bm_upgrade(path->parent, path->parent_version))
		bm_restart();
	if (!bm_upgrade(path->pid, path->version)) {
		bm_unlock(path->parent);
		bm_restart();
	}
	bm_optimistic_end();

	memcpy(old, bm_page(left_pid), bm.page_size);
	mid = (old->count - 1) / 2;
	middle = get_entry(old, mid);

	right_pid = bm_extent(1);
	bm_create(right_pid, 1);
	right = new_node(right_pid, old->leaf);
	copy_entries(right, old, mid + 1, old->count);
	right->upper = old->upper;
	/* The middle key moves to the parent; in a leaf, its entry also stays */
	left = new_node(left_pid, old->leaf);
	copy_entries(left, old, 0, old->leaf ? mid + 1 : mid);
	if (!old->leaf)
		left->upper = get_child(old, mid);

	if (path->parent == META) {
		/* The node was the root: add a level to the tree */
		root_pid = bm_extent(1);
		bm_create(root_pid, 1);
		((struct meta *)parent)->root = root_pid;
		parent = new_node(root_pid, false);
		parent->upper = left_pid;
	}
	/* Let the old reference lead to the right node, and insert one to the left node */
	i = search(parent, middle.key, middle.key_len, &found);
	if (i == parent->count)
		parent->upper = right_pid;
	else
		memcpy(get_entry(parent, i).payload, &right_pid, sizeof(right_pid));
	middle.payload = (char *)&left_pid;
	middle.len = sizeof(left_pid);
	insert_entry(parent, i, &middle);

	bm_unlock(right_pid);
	bm_unlock(left_pid);
	if (root_pid)
		bm_unlock(root_pid);
	bm_unlock(path->parent);
}

/* Returns -EAGAIN if a node was split; the caller must try again from the root */
static int insert_once(const struct entry *new)
{
	size_t need = sizeof(struct slot) + new->key_len + new->len;
	struct node *node;
	struct path path;
	unsigned int i;
	bool found;

	node = descend(&path, new->key, new->key_len, true);
	if (!load(node->leaf) || !has_space(node, need)) {
		split(&path);
		return -EAGAIN;
	}
	i = search(node, new->key, new->key_len, &found);
	/* The lock succeeds only at the version that was read, so the result is valid */
	if (!bm_upgrade(path.pid, path.version))
		bm_restart();
	bm_optimistic_end();
	if (!found)
		insert_entry(node, i, new);
	bm_unlock(path.pid);
	return found ? -EEXIST : 0;
}

static u64 write_extent(const char *data, size_t len)
{
	u64 count = (len + bm.page_size - 1) / bm.page_size, pid = bm_extent(count);
	u64 end = pid + count, first = pid, created = pid;
	size_t bytes;

	for (; pid < end; pid++, data += bytes, len -= bytes) {
		if (pid == created) {
			created += end - pid < bm.batch ? end - pid : bm.batch;
			bm_create(pid, created - pid);
		}
		bytes = len < bm.page_size ? len : bm.page_size;
		memcpy(bm_page(pid), data, bytes);
		/* ALLOC reuses pages without clearing them: clear the rest of the page */
		memset((char *)bm_page(pid) + bytes, 0, bm.page_size - bytes);
		bm_unlock(pid);
	}
	return first;
}

int btree_insert(const void *key, size_t key_len, const void *data, size_t len)
{
	char payload[sizeof(struct value) + BTREE_INLINE_MAX];
	struct value value = { .size = len };
	struct entry new = { (char *)key, payload, key_len, sizeof(value) };
	int ret;

	if (key_len > BTREE_KEY_MAX)
		return -ENAMETOOLONG;
	if (len > BTREE_INLINE_MAX) {
		value.extent = write_extent(data, len);
	} else {
		memcpy(payload + sizeof(value), data, len);
		new.len += len;
	}
	memcpy(payload, &value, sizeof(value));
	do {
		bm_optimistic_begin();
		ret = insert_once(&new);
	} while (ret == -EAGAIN);
	return ret;
}

/* Find the value of a key, and copy the data if it is stored in the leaf */
static bool find_value(const void *key, size_t key_len, struct value *value, void *buf, size_t size)
{
	struct entry entry;
	struct node *node;
	struct path path;
	unsigned int i;
	bool found;

	bm_optimistic_begin();
	node = descend(&path, key, key_len, false);
	i = search(node, key, key_len, &found);
	if (found) {
		entry = get_entry(node, i);
		if (entry.len < sizeof(*value))
			bm_restart();
		memcpy(value, entry.payload, sizeof(*value));
		if (!value->extent) {
			if (value->size > entry.len - sizeof(*value))
				bm_restart();
			memcpy(buf, entry.payload + sizeof(*value),
			       value->size < size ? value->size : size);
		}
	}
	bm_read_check(path.pid, path.version);
	bm_optimistic_end();
	return found;
}

static void read_page(u64 pid, void *buf, size_t len)
{
	u64 version;

	bm_optimistic_begin();
	version = bm_read_begin(pid);
	memcpy(buf, bm_page(pid), len);
	bm_read_check(pid, version);
	bm_optimistic_end();
}

ssize_t btree_lookup(const void *key, size_t key_len, void *buf, size_t size)
{
	struct value value;
	u64 pid, next, end;
	size_t done, n;

	if (!find_value(key, key_len, &value, buf, size))
		return -ENOENT;
	if (!value.extent)
		return value.size;
	/* An extent never changes once it is in the tree: the leaf need not be rechecked */
	if (size > value.size)
		size = value.size;
	pid = value.extent;
	next = pid;
	end = pid + (size + bm.page_size - 1) / bm.page_size;
	for (done = 0; done < size; pid++, done += n) {
		next = bm_read_ahead(pid, next, end);
		n = size - done < bm.page_size ? size - done : bm.page_size;
		read_page(pid, (char *)buf + done, n);
	}
	return value.size;
}

void btree_create(void)
{
	u64 meta = bm_extent(1), root = bm_extent(1);	/* the first extent is page META */

	bm_create(meta, 1);
	memset(bm_page(meta), 0, bm.page_size);
	((struct meta *)bm_page(meta))->root = root;
	bm_create(root, 1);
	new_node(root, true);
	bm_unlock(root);
	bm_unlock(meta);
}
